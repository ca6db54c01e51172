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
        sentences: What is worth knowing, or why it is refused.
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

    @contextmanager
    def look(self, check: str) -> Iterator[list[str]]:
        """Does one check, gives room for sentences worth knowing, and keeps what it raises."""
        start = time.perf_counter()
        sentences: list[str] = []
        verdict: Verdict = "refused"
        try:
            yield sentences
            verdict = "worth knowing" if sentences else "ok"
        except (MergeQueueError, TaskError) as error:
            self.refusals.append(error)
            sentences = [str(error)]
        self.told(Finding(check, verdict, tuple(sentences), time.perf_counter() - start))

    def stop_if_refused(self) -> None:
        """Raises the first refusal, if there is one."""
        if self.refusals:
            raise self.refusals[0]
