"""The promotion log: which merged model is deployed, and how it came to be.

Each entry is an object ``s3://<bucket>/<family>/promotions/00000042.json``, which is created with
``If-None-Match: *``. That conditional create is the only commit point of the whole queue: of two
writers one loses and is told so. The deployed model is the newest entry; MLflow's aliases and tags
only mirror it.

A freeze and a thaw are entries as well: they deploy nothing new, and whatever was to be committed on the
entry before them loses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from infra.errors import Conflict, Corrupt, Frozen
from infra.storage.store import ObjectStore, S3Uri, StoredObject

_ENTRY = re.compile(r"\d{8}\.json")


@dataclass(frozen=True)
class Recorded:
    """A merged model as the queue itself wrote it down in the object store.

    The version of that number in MLflow is a request and a mirror; what its tags and its source say
    is not believed.

    Attributes:
        version: Its number in MLflow.
        location: The folder of its files.
        manifest_sha256: The digest of its manifest.
    """

    version: int
    location: S3Uri
    manifest_sha256: str

    @property
    def key(self) -> str:
        """The key of the build that made it, which is the name of its folder."""
        return self.location.key.rpartition("/")[2]


Action = Literal["promote", "rollback", "freeze", "thaw"]


class Promotion(BaseModel):
    """One entry of the log.

    Attributes:
        frozen: Whether nothing may be promoted after it; what is deployed can still be rolled back.
        deployed_in: The entry that deployed the model, where this one only froze or thawed the family.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    version: int
    location: str
    manifest_sha256: str
    previous: int | None
    action: Action
    decided_by: str
    reason: str
    run_id: str
    time: AwareDatetime
    frozen: bool = False
    deployed_in: int | None = None

    @property
    def deployment(self) -> int:
        """The number of the entry that deployed the model; a freeze or a thaw does not change it."""
        return self.deployed_in or self.sequence

    @property
    def model(self) -> Recorded:
        """What became the deployed model."""
        return Recorded(self.version, S3Uri.parse(self.location), self.manifest_sha256)


class PromotionLog:
    """The append-only log of one family."""

    def __init__(
        self,
        store: ObjectStore,
        folder: S3Uri,
        read: Callable[[StoredObject], bytes] | None = None,
    ) -> None:
        """Opens a log.

        Args:
            store: Where it is.
            folder: Its folder there.
            read: What reads an entry, which stays as it is; by default the store, each time.
        """
        self._store = store
        self._folder = folder
        self._read_bytes = read or (lambda item: store.read(item.uri))

    def entries(self) -> tuple[Promotion, ...]:
        """Every entry, oldest first.

        Raises:
            Corrupt: An entry is missing or damaged.
        """
        return tuple(self._read(item) for item in self._items())

    def newest(self) -> Promotion | None:
        """The entry that says what is deployed, or None before the first promotion.

        Raises:
            Corrupt: An entry is missing, or this one is damaged.
        """
        items = self._items()
        return self._read(items[-1]) if items else None

    def freeze(self) -> Promotion | None:
        """The entry by which a person froze the family, or None where it is not frozen."""
        newest = self.newest()
        if newest is None or not newest.frozen:
            return None
        return next(e for e in reversed(self.entries()) if e.action == "freeze")

    def _items(self) -> list[StoredObject]:
        """The objects of the log, numbered from 1 without a gap; other files there are let be."""
        items = [item for item in self._store.list(self._folder) if _ENTRY.fullmatch(item.path)]
        for sequence, item in enumerate(items, start=1):
            if item.path != _file_name(sequence):
                raise Corrupt(
                    where=str(self._folder),
                    expected=f"promotion {sequence} after promotion {sequence - 1}",
                    found=item.path,
                    remedy=f"Restore {_file_name(sequence)} from the bucket's older versions.",
                )
        return items

    def append(
        self,
        after: Promotion | None,
        *,
        version: int,
        location: str,
        manifest_sha256: str,
        action: Action,
        decided_by: str,
        reason: str,
        run_id: str,
        time: datetime,
    ) -> Promotion:
        """Commits one change of the deployed model, or of what may follow it.

        Args:
            after: The entry that the decision was based on; it must still be the newest.
            version: MLflow version of the merged model that becomes the champion.
            location: The folder of its files.
            manifest_sha256: The digest of its manifest.
            action: What kind of change this is.
            decided_by: Policy, person or command that decided.
            reason: Why, in words.
            run_id: The flow run that writes the entry.
            time: When, with a time zone.

        Raises:
            Conflict: Somebody else committed after ``after``.
            Frozen: The family is frozen, and this would promote.
        """
        frozen = after is not None and after.frozen
        if frozen and action == "promote":
            raise Frozen("The family is frozen, so nothing is promoted.", "Thaw it first.")
        deploys = action in ("promote", "rollback")
        entry = Promotion(
            sequence=after.sequence + 1 if after else 1,
            version=version,
            location=location,
            manifest_sha256=manifest_sha256,
            previous=after.version if after else None,
            action=action,
            decided_by=decided_by,
            reason=reason,
            run_id=run_id,
            time=time,
            frozen=action == "freeze" or (frozen and action != "thaw"),
            deployed_in=None if deploys or after is None else after.deployment,
        )
        uri = self._folder / _file_name(entry.sequence)
        try:
            self._store.create(uri, _written(entry))
        except Conflict:
            # A retry of ours differs only in its time, and must find its own first try.
            there = Promotion.model_validate_json(self._store.read(uri))
            if there.model_copy(update={"time": time}) != entry:
                raise
            return there
        return entry

    def _read(self, item: StoredObject) -> Promotion:
        try:
            entry = Promotion.model_validate_json(self._read_bytes(item))
        except ValidationError as error:
            raise Corrupt(
                where=str(item.uri),
                expected="a promotion",
                found=str(error),
                remedy="Restore the object from the bucket's older versions.",
            ) from error
        if item.path != _file_name(entry.sequence):
            raise Corrupt(
                where=str(item.uri),
                expected="the promotion that its name tells",
                found=f"promotion {entry.sequence}",
                remedy="Restore the object from the bucket's older versions.",
            )
        return entry


def _written(entry: Promotion) -> bytes:
    """Without what an entry does not need to say, so that earlier releases read it too."""
    return (entry.model_dump_json(indent=1, exclude_defaults=True) + "\n").encode()


def _file_name(sequence: int) -> str:
    return f"{sequence:08d}.json"


def model_before(entries: Sequence[Promotion]) -> Recorded | None:
    """What a rollback without a target goes back to.

    The model that was deployed before the present one was first promoted, so that rolling back twice
    goes two steps back and never forward again. The same model is the same manifest: numbers are
    MLflow's, which may count anew.
    """
    models = [entry.manifest_sha256 for entry in entries]
    first = models.index(models[-1]) if models else 0
    return entries[first - 1].model if first else None
