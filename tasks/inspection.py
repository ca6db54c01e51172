"""What an expert was looked at for and what was found, told check by check."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from merging.errors import MergeQueueError
from merging.serving import TaskError

Verdict = Literal["ok", "worth knowing", "refused"]


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        check: What was looked at.
        sentences: What is worth knowing, or why it is refused; then what was measured.
        seconds: How long it took, wall clock.
    """

    check: str
    verdict: Verdict
    sentences: tuple[str, ...]
    seconds: float


Told = Callable[[Finding], None]
"""Is told each finding when it is there."""


class Inspection:
    """Looks at one thing after the other, and goes on after a refusal, so that people hear of all.

    Attributes:
        refusals: What refused, in order.
    """

    def __init__(self, told: Told) -> None:
        """Looks at nothing yet; `told` hears of each check."""
        self.told = told
        self.refusals: list[MergeQueueError | TaskError] = []
        self._measured: list[str] = []

    def measured(self, sentence: str) -> None:
        """Adds a figure to what is told of the present check; it is no reason for anything."""
        self._measured.append(sentence)

    @contextmanager
    def look(self, check: str) -> Iterator[list[str]]:
        """Does one check, gives room for sentences worth knowing, and keeps what it raises."""
        start = time.perf_counter()
        sentences: list[str] = []
        self._measured = []
        verdict: Verdict = "refused"
        try:
            yield sentences
            verdict = "worth knowing" if sentences else "ok"
        except (MergeQueueError, TaskError) as error:
            self.refusals.append(error)
            sentences = [str(error)]
        seconds = time.perf_counter() - start
        self.told(Finding(check, verdict, (*sentences, *self._measured), seconds))

    def stop_if_refused(self) -> None:
        """Raises the first refusal, if there is one."""
        if self.refusals:
            raise self.refusals[0]
