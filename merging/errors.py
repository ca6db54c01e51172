"""The engine's errors, and the base of the whole project's.

Every message says where something is wrong, what was expected there and what was found, and ends
with what to do. The facts are also attributes, so that a caller can show them in another form.
"""

from __future__ import annotations


class MergeQueueError(Exception):
    """Base of every error that this project raises on purpose."""


class Discrepancy(MergeQueueError):
    """Something is not what it has to be.

    Attributes:
        where: A file, an address, or what a person would call the place.
        expected: What has to be there.
        found: What is there.
        remedy: What to do, as a sentence.
    """

    def __init__(self, *, where: str, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found.removesuffix('.')}. {remedy}")
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy


class InvalidInput(Discrepancy):
    """Something that came from outside is not what it has to be."""


class NonFinite(Discrepancy):
    """A loss, a gradient or a merged weight became NaN or infinite; nothing of it is kept."""


class NotEnoughMemory(Discrepancy):
    """No plan fits the memory budget."""


class NotReproduced(Discrepancy):
    """A merged model has other bytes than its base, experts and coefficients give."""
