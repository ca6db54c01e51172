"""The errors of the whole project: one small tree.

Every message says what was expected, what was found, where, and ends with what to do. The facts are
also attributes, so that a caller can show them in another form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class MergeQueueError(Exception):
    """Base of every error that this project raises on purpose."""


class InvalidInput(MergeQueueError):
    """Something that came from outside is not what it has to be."""

    def __init__(self, *, where: str, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}. {remedy}")
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy


class Mismatch(NamedTuple):
    """One difference between a base and an expert."""

    tensor: str
    expected: str
    found: str


class IncompatibleExpert(MergeQueueError):
    """An expert cannot be merged into this base; carries the table of what does not fit."""

    def __init__(self, where: str, mismatches: Sequence[Mismatch], remedy: str) -> None:
        rows = "\n".join(
            f"  {m.tensor}: expected {m.expected}, found {m.found}" for m in mismatches
        )
        super().__init__(f"{where} does not fit its base:\n{rows}\n{remedy}")
        self.mismatches = tuple(mismatches)


class NonFinite(MergeQueueError):
    """A loss or gradient became NaN or infinite; nothing was updated with it."""


class NotEnoughMemory(MergeQueueError):
    """No plan fits the memory budget."""


class Refused(MergeQueueError):
    """The request is understood but must not be carried out now; says why and what to do."""


class Conflict(MergeQueueError):
    """Another writer committed first; nothing was changed."""


class Corrupt(MergeQueueError):
    """Stored bytes do not have the digest that was recorded for them."""


class Unavailable(MergeQueueError):
    """A server or file that must be there does not answer."""
