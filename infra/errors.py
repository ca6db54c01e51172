"""The pipeline's errors. The engine's, and the base of them all, are in :mod:`merging.errors`."""

from __future__ import annotations

from merging.errors import Discrepancy, MergeQueueError

# HTTP statuses of the 4xx kind that another try may not meet again.
PASSING = frozenset({408, 425, 429})


class _Told(MergeQueueError):
    """An error that consists of a reason and of what to do.

    Attributes:
        reason: What is the matter, in sentences.
        remedy: What to do, as a sentence.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__("\n".join((reason, remedy)) if "\n" in reason else f"{reason} {remedy}")
        self.reason = reason
        self.remedy = remedy


class Refused(_Told):
    """The request is understood but must not be carried out now."""


class Frozen(Refused):
    """A person froze the family; what would be promoted waits until it is thawed."""


class Unavailable(_Told):
    """A server, a disk or a device does not do its part now; trying again later may help."""


class Barred(Unavailable):
    """A server does not let us in: a key or a password is missing, wrong or has expired.

    It stays so until somebody mends it, but it is the matter of no single thing: nothing goes on.
    """


class Unreadable(_Told):
    """One thing cannot be had: it is not there, or its server refuses it.

    That stays so until somebody mends it, and it is the matter of that one thing: others go on.
    """


class Conflict(MergeQueueError):
    """Another writer committed first; nothing was changed.

    Attributes:
        where: The object that both wanted to create.
    """

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where} was created by another writer first. Nothing was changed; "
            "run the command again to decide on the new state."
        )
        self.where = where


class Corrupt(Discrepancy):
    """What is stored is not what was recorded."""
