"""Keeps a log small that strangers can write to: whoever reaches the receiver makes it warn."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

MOST = 20
"""Warnings of one kind in a minute that are logged."""


class Seldom(logging.Filter):
    """Lets through so many warnings of one kind in a minute, and says when it leaves others out.

    Attributes:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing has been logged yet."""
        super().__init__()
        self.clock = clock
        self._minute = 0
        self._logged: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged; the last one of its kind says that more are left out."""
        if record.levelno != logging.WARNING:
            return True
        if (minute := int(self.clock() / 60)) != self._minute:
            self._minute = minute
            self._logged.clear()
        kind = str(record.msg)
        self._logged[kind] += 1
        if self._logged[kind] == MOST:
            record.msg = f"{kind} (further ones are left out for a minute)"
        return self._logged[kind] <= MOST
