"""Which files an expert or a base consisted of when it was looked at: ``contents/<digest>.json``.

A folder is known by one digest of all its files, so a file that somebody adds later would hide the others.
With the list of what belongs to it they are found again, and each is compared with its own digest.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from infra.errors import Unreadable
from infra.storage.layout import tree_digests
from infra.storage.store import ObjectStore, S3Uri

_FILES = TypeAdapter(dict[str, str])


class Contents:
    """The lists of one family."""

    def __init__(self, store: ObjectStore, family: S3Uri) -> None:
        self._store = store
        self._folder = family / "contents"

    def record(self, digest: str, files: Mapping[str, str]) -> None:
        """Keeps the SHA-256 of each file of a folder by its path."""
        uri = self._folder / f"{digest}.json"
        if not self._store.exists(uri):
            self._store.write(uri, _FILES.dump_json(dict(files), indent=1))

    def find(self, digest: str) -> dict[str, str] | None:
        """The SHA-256 of each file by its path; None where there is no list that has this digest."""
        try:
            files = _FILES.validate_json(self._store.read(self._folder / f"{digest}.json"))
        except (Unreadable, ValidationError):
            return None
        return files if digest in tree_digests(files) else None
