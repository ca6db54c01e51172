"""What people were told already: one small object ``notices.json`` in a family's folder.

One event is one notice, however often a sweep meets it. What was committed is told by the number of its
entry in the promotion log, so that a notice is not lost with the process that should have sent it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from infra.errors import Unavailable, Unreadable
from infra.storage.store import ObjectStore, S3Uri

_KEPT = 500  # Events that are remembered.


class Told(BaseModel):
    """What was told.

    Attributes:
        promotion: Number of the newest entry of the log that people were told of; None before the first.
        events: When each event was told, by its key.
        unfinished: Runs in a row that did not come to a good end, by the name of the flow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[1] = 1
    promotion: int | None = None
    events: dict[str, AwareDatetime] = {}
    unfinished: dict[str, int] = {}

    def of(self, key: str) -> Told:
        """The same, and this event too."""
        events = {**self.events, key: datetime.now(UTC)}
        return self.model_copy(update={"events": dict(list(events.items())[-_KEPT:])})

    def without(self, *prefixes: str) -> Told:
        """The same without the events that are over."""
        events = {key: time for key, time in self.events.items() if not key.startswith(prefixes)}
        return self.model_copy(update={"events": events})


class Ledger:
    """Keeps what one family's people were told; while the store is away, on this machine."""

    def __init__(self, store: ObjectStore, uri: S3Uri, here: Path) -> None:
        """Keeps it at `uri`, else in the file `here`."""
        self._store = store
        self._uri = uri
        self._here = here

    def read(self) -> Told:
        """What was told; nothing where there is no record, or none that can be read."""
        try:
            text = self._store.read(self._uri)
        except Unreadable:
            return Told()
        except (Unavailable, OSError):
            text = self._here.read_bytes() if self._here.exists() else b"{}"
        try:
            return Told.model_validate_json(text)
        except ValidationError:
            return Told()

    def write(self, told: Told) -> None:
        """Remembers it."""
        text = told.model_dump_json(indent=1).encode()
        try:
            self._store.write(self._uri, text)
        except (Unavailable, Unreadable, OSError):
            self._here.parent.mkdir(parents=True, exist_ok=True)
            self._here.write_bytes(text)
        else:
            self._here.unlink(missing_ok=True)
