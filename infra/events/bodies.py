"""Reads the bodies of requests within bounds of memory and time, whoever sends them and however many.

Whether a message is genuine shows only at its end. Until then it may cost little.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fastapi import HTTPException, Request, status
from starlette.requests import ClientDisconnect

MAX_BODY_BYTES = 2 * 1024**2
"""Bytes that a message may have: MLflow's largest tag and description (100,000 and 200,000
characters), with room for escapes."""
MAX_BYTES = 32 * 1024**2
"""Bytes that all messages may have together while they are read."""
SECONDS = 10.0
"""How long the body of a message may take; MLflow sends it at once."""


@dataclass(eq=False)
class _Reading:
    patience: asyncio.Timeout
    data: bytearray = field(default_factory=bytearray)
    has_given_way: bool = False


class Bodies:
    """The bodies that are being read at present.

    Once they hold too many bytes together the longest gives way. A message of MLflow's is a few
    thousand bytes, so a crowd of endless ones never crowds it out.
    """

    def __init__(self, together: int = MAX_BYTES, seconds: float = SECONDS) -> None:
        """Nothing is read yet; see the constants for the bounds."""
        self._together = together
        self._seconds = seconds
        self._readings: set[_Reading] = set()

    async def read(self, request: Request) -> bytes:
        """The whole body.

        Raises:
            HTTPException: It is too long (413), takes too long (408) or ends before it is whole (400),
                or there are too many (503).
        """
        if _is_longer(request.headers.get("content-length", ""), MAX_BODY_BYTES):
            raise HTTPException(status.HTTP_413_CONTENT_TOO_LARGE)
        reading = _Reading(asyncio.timeout(self._seconds))
        self._readings.add(reading)
        try:
            async with reading.patience:
                async for chunk in request.stream():
                    self._add(reading, chunk)
        except TimeoutError:
            if not reading.has_given_way:
                raise HTTPException(status.HTTP_408_REQUEST_TIMEOUT) from None
        except ClientDisconnect:
            raise HTTPException(status.HTTP_400_BAD_REQUEST) from None
        finally:
            self._readings.discard(reading)
        if reading.has_given_way:
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE)
        return bytes(reading.data)

    def _add(self, reading: _Reading, chunk: bytes) -> None:
        if reading.has_given_way:
            return
        reading.data += chunk
        if len(reading.data) > MAX_BODY_BYTES:
            raise HTTPException(status.HTTP_413_CONTENT_TOO_LARGE)
        while sum(len(one.data) for one in self._readings) > self._together:
            longest = max(self._readings, key=lambda one: len(one.data))
            self._readings.discard(longest)
            longest.has_given_way = True
            longest.data.clear()
            longest.patience.reschedule(0)


def _is_longer(declared: str, limit: int) -> bool:
    return declared.isascii() and declared.isdecimal() and int(declared[:20]) > limit
