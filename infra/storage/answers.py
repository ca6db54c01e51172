"""Answers that were worked out once, in sheets: one for each model, head and examples.

All sheets that are written together lie in one object ``answers/<digest>.json``, named after a merged
model or after an expert, where it is about that expert. What is gone, or cannot be read, is worked out
again. Earlier releases wrote one object for each sheet, under ``evaluations/``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import Unreadable
from infra.storage.cache import Cache
from infra.storage.store import ObjectStore, S3Uri, StoredObject
from merging.errors import InvalidInput
from merging.models.outcomes import Outcomes

_WRITTEN_EVERY = 60  # Seconds of work that a killed run may lose.


@dataclass(frozen=True)
class Sheet:
    """Which answers: the digests of a model, of a head and of examples."""

    model: str
    head: str
    examples: str

    @property
    def key(self) -> str:
        """One digest of the three."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class _Sheets(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[1] = 1
    sheets: Mapping[str, str]


class Answers:
    """The answer sheets of one family, as they were when they were first asked for."""

    def __init__(self, store: ObjectStore, cache: Cache, family: S3Uri) -> None:
        self._store = store
        self._cache = cache
        self._family = family
        self._listed: dict[str, dict[str, StoredObject]] = {}
        self._sheets: dict[str, dict[str, str]] = {}
        self._unwritten: set[str] = set()
        self._written = time.monotonic()

    def find(self, sheet: Sheet, under: str) -> Outcomes | None:
        """What was answered; None where nobody knows yet.

        Args:
            sheet: Which answers.
            under: The digest that the object is named after.
        """
        text = self._of(under).get(sheet.key) or self._read("evaluations", sheet.key)
        try:
            return Outcomes.from_json(text) if text else None
        except InvalidInput:
            return None

    def add(self, sheet: Sheet, under: str, outcomes: Outcomes) -> None:
        """Keeps what was answered; it is written soon, at the latest by :meth:`write`."""
        self._of(under)[sheet.key] = outcomes.to_json()
        self._unwritten.add(under)
        if time.monotonic() - self._written > _WRITTEN_EVERY:
            self.write()

    def write(self) -> None:
        """Writes what was added since the last time."""
        for name in sorted(self._unwritten):
            document = _Sheets(sheets=self._sheets[name])
            uri = self._family / "answers" / f"{name}.json"
            self._store.write(uri, document.model_dump_json().encode())
        self._unwritten.clear()
        self._written = time.monotonic()

    def _of(self, name: str) -> dict[str, str]:
        """All sheets of one object by their keys."""
        if name not in self._sheets:
            text = self._read("answers", name)
            try:
                sheets = _Sheets.model_validate_json(text).sheets if text else {}
            except ValidationError:
                sheets = {}
            self._sheets[name] = dict(sheets)
        return self._sheets[name]

    def _read(self, folder: str, name: str) -> str | None:
        """An object of a folder, which is listed once; None where it is not there."""
        if folder not in self._listed:
            items = self._store.list(self._family / folder)
            self._listed[folder] = {item.path: item for item in items}
        item = self._listed[folder].get(f"{name}.json")
        try:
            return self._cache.read(item).decode() if item else None
        except (Unreadable, UnicodeDecodeError):
            return None
