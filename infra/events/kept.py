"""An answer that is kept for a while, so that whoever asks does not make the servers work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """What a function gives; it is called again only once that is old, however many ask for it."""

    def __init__(self, function: Callable[[], Awaitable[T]], seconds: float) -> None:
        """Calls the function when it is asked the first time, and then every so many seconds."""
        self._function = function
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._known: tuple[float, T] | None = None

    async def __call__(self) -> T:
        """The answer, which is at most that old."""
        async with self._turn:
            if self._known is None or time.monotonic() - self._known[0] > self._seconds:
                self._known = (time.monotonic(), await self._function())
            return self._known[1]
