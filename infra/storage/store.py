"""The object store as the queue needs it: listing, whole-file transfer and the conditional create.

:mod:`infra.storage.s3` and :mod:`infra.storage.folder` implement it, and one suite of tests holds
for both. Bytes are never trusted by name: whoever downloads compares SHA-256 digests (see
:mod:`infra.storage.cache`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from infra.errors import Unreadable
from merging.errors import InvalidInput

if TYPE_CHECKING:
    from infra.settings import Settings


@dataclass(frozen=True)
class S3Uri:
    """A bucket and a key (or key prefix without a trailing slash)."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> S3Uri:
        """Reads ``s3://bucket/key``; raises InvalidInput for anything else."""
        # Not by a parser of URLs: in a key, # and ? are letters like any other.
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        parts = key.strip("/").split("/")
        if scheme != "s3" or not bucket or not all(parts) or {".", ".."}.intersection(parts):
            raise InvalidInput(
                where="S3 location",
                expected="s3://bucket/prefix",
                found=repr(uri[:500]),
                remedy="Point it to a folder in the object store.",
            )
        return cls(bucket, "/".join(parts))

    def __truediv__(self, child: str) -> S3Uri:
        """A key below this one."""
        return S3Uri(self.bucket, f"{self.key}/{child}")

    @property
    def parent(self) -> S3Uri:
        """The folder that it lies in."""
        return S3Uri(self.bucket, self.key.rpartition("/")[0])

    def __str__(self) -> str:
        """As `s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing.

    Attributes:
        uri: Where it is.
        path: Its key relative to the prefix that was listed.
        size: How many bytes it has.
        etag: Changes whenever the content does.
        modified: When it was written, by the clock of the store.
    """

    uri: S3Uri
    path: str
    size: int
    etag: str
    modified: datetime


class ObjectStore(Protocol):
    """The few operations that the queue is built from; an object is there whole or not at all."""

    def list(self, prefix: S3Uri) -> tuple[StoredObject, ...]:
        """Every object below ``prefix``, in the order of the bytes of their keys."""

    def exists(self, uri: S3Uri) -> bool:
        """True if the object is there."""

    def read(self, uri: S3Uri) -> bytes:
        """The bytes of a small object; raises Unreadable when it is not there."""

    def write(self, uri: S3Uri, data: bytes) -> None:
        """Writes a small object, replacing what was there."""

    def create(self, uri: S3Uri, data: bytes) -> None:
        """Creates an object only if it does not exist: of two writers exactly one succeeds.

        A retried request can meet its own first try; the same bytes therefore count as success.

        Raises:
            Conflict: Another object is already there.
            Refused: The store would let two writers succeed; nothing was created.
        """

    def prove_create(self, folder: S3Uri) -> None:
        """Shows that in this folder an object is created only where there is none.

        Raises:
            Refused: The store would let two writers succeed.
        """

    def delete(self, uri: S3Uri) -> None:
        """Removes an object; nothing happens where there is none."""

    def download(self, uri: S3Uri, target: Path) -> None:
        """Copies an object to a file, which is then complete or, after an error, absent.

        Raises:
            Unreadable: There is no such object, or it may not be read.
        """

    def upload(self, source: Path, uri: S3Uri) -> None:
        """Copies a file to an object, replacing what was there."""


def connect_store(settings: Settings) -> ObjectStore:
    """The store that the settings name: a folder where there is one, else S3."""
    if settings.store_dir is not None:
        from infra.storage.folder import FolderStore

        return FolderStore(settings.store_dir)
    from infra.storage.s3 import S3Store

    return S3Store.connect(settings)


def missing(uri: S3Uri) -> Unreadable:
    """What every store raises for an object that is not there."""
    return Unreadable(
        f"{uri} does not exist.",
        "Restore the object, or roll back to a version whose files are complete.",
    )
