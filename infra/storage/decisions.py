"""Which gate examples each build was decided on: a test set wears out.

``decisions/<build key>.json`` lists the digests of the gate examples. Earlier releases wrote an empty
object ``decisions/<digest>/<build key>`` for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError

from infra.errors import Unreadable
from infra.storage.cache import Cache
from infra.storage.store import ObjectStore, S3Uri

_DIGESTS = TypeAdapter(list[str])


class Decisions:
    """The decisions of one family."""

    def __init__(self, store: ObjectStore, cache: Cache, family: S3Uri) -> None:
        self._store = store
        self._cache = cache
        self._folder = family / "decisions"

    def record(self, key: str, examples: Iterable[str]) -> None:
        """Writes down which gate examples a build was decided on, by their digests."""
        self._store.write(self._folder / f"{key}.json", _DIGESTS.dump_json(sorted(examples)))

    def by_examples(self) -> dict[str, set[str]]:
        """The keys of the builds that were decided on each gate examples, by their digest."""
        found: dict[str, set[str]] = {}
        for item in self._store.list(self._folder):
            digest, _, key = item.path.rpartition("/")
            digests = [digest]
            if not digest:
                key = item.path.removesuffix(".json")
                try:
                    digests = _DIGESTS.validate_json(self._cache.read(item))
                except (Unreadable, ValidationError):
                    continue
            for one in digests:
                found.setdefault(one, set()).add(key)
        return found
