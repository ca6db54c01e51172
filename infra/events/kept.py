"""An answer that is kept for a while, so that whoever asks does not make the servers work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """What a function gives; it is called again only once that is old, however many ask for it."""

    def __init__(
        self,
        function: Callable[[], Awaitable[T]],
        otherwise: T,
        seconds: float,
        patience: float = 8.0,
    ) -> None:
        """Calls the function when it is asked the first time, and then every so many seconds.

        Args:
            function: Gives the answer.
            otherwise: What is answered until there is one.
            seconds: How old an answer may be.
            patience: Seconds that who asks waits for a new one at most; then he gets the old.
        """
        self._function = function
        self._known = otherwise
        self._seconds = seconds
        self._patience = patience
        self._next = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self) -> T:
        """The answer."""
        if self._asking is None and time.monotonic() >= self._next:
            self._asking = asyncio.create_task(self._ask())
        if (asking := self._asking) is not None:
            await asyncio.wait({asking}, timeout=self._patience)
            if asking.done():
                asking.result()  # Raises what went wrong in it.
        return self._known

    async def _ask(self) -> None:
        try:
            self._known = await self._function()
        finally:
            self._next = time.monotonic() + self._seconds
            self._asking = None
