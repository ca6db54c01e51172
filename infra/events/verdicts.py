"""What the gate has decided since the last look, from the queue's own records in the object store."""

from __future__ import annotations

from collections.abc import Iterator

from infra.errors import Corrupt
from infra.families import Family
from infra.storage.attempts import Attempts
from infra.storage.store import ObjectStore

_RECORD = ".json"


class Verdicts:
    """The decided builds of every family."""

    def __init__(self, store: ObjectStore) -> None:
        """Nothing has been looked at; what was decided before the first look is not counted."""
        self._store = store
        self._seen: dict[str, set[str]] = {}

    def new(self, family: Family) -> Iterator[str]:
        """The verdict of each build that was decided since the last look at this family.

        Raises:
            MergeQueueError: The records cannot be read.
        """
        attempts = Attempts(self._store, family.root)
        there = {item.path for item in self._store.list(family.root / "attempts")}
        seen = self._seen.setdefault(family.name, there)
        for path in sorted(path for path in there - seen if path.endswith(_RECORD)):
            try:
                decided = attempts.find(path.removesuffix(_RECORD))
            except Corrupt:  # The queue decides that one again.
                decided = None
            if decided is not None:
                yield decided.report.verdict
            seen.add(path)
