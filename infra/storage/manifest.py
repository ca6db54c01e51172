"""``manifest.json``: what a merged model was made of, and the SHA-256 of every file in it.

It is uploaded last, so its existence means that the model in the object store is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import Corrupt, Unreadable
from infra.names import Name, check_relative_path
from infra.storage.cache import download_fresh, sha256_file, sha256_tree
from infra.storage.store import ObjectStore, S3Uri
from merging.kinds import ModelKind
from merging.models.folder import MANIFEST, MODEL


class MergedExpert(BaseModel):
    """One expert inside a merged model: an MLflow model version and the digest of its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Name
    name: str
    version: int
    source: str
    digest: str

    @property
    def ref(self) -> str:
        """``name/version``, as people write it."""
        return f"{self.name}/{self.version}"


class Manifest(BaseModel):
    """Everything that determines a merged model, and its files.

    Nothing in it depends on when or where it was built, with two exceptions: the last digits of
    coefficients, and with them of weights, depend on the processor and threads that learned them, and
    the report among its files tells a latency that was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[1] = 1
    family: Name
    kind: ModelKind
    build_key: str
    base: str
    base_digest: str
    experts: tuple[MergedExpert, ...]
    data: Mapping[str, str]
    champion_sequence: int
    champion_version: int | None
    rung: str
    settings: Mapping[str, object]
    policy: Mapping[str, object]
    plan: Mapping[str, object]
    files: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """The canonical JSON that is stored and hashed."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the stored JSON."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the model answers."""
        return tuple(expert.task for expert in self.experts)

    @property
    def model_digest(self) -> str:
        """The digest of the merged backbone's files."""
        prefix = f"{MODEL}/"
        files = self.files.items()
        return sha256_tree(
            {path.removeprefix(prefix): sha for path, sha in files if path.startswith(prefix)}
        )

    @classmethod
    def read(cls, store: ObjectStore, location: S3Uri, digest: str | None = None) -> Self:
        """Reads the manifest of the merged model at ``location``.

        Args:
            store: Where to read from.
            location: The model's folder.
            digest: The SHA-256 that was recorded for it, where one was.

        Raises:
            Corrupt: The bytes have another digest or are no manifest.
        """
        place = location / MANIFEST
        return cls.parse(store.read(place), place, digest)

    @classmethod
    def parse(cls, data: bytes, place: S3Uri, digest: str | None = None) -> Self:
        """Reads the bytes of a manifest, as :meth:`read` does.

        Args:
            data: What is to be one.
            place: Where it was found.
            digest: The SHA-256 that was recorded for it, where one was.
        """
        actual = hashlib.sha256(data).hexdigest()
        if digest is not None and actual != digest:
            raise Corrupt(
                where=str(place),
                expected=f"SHA-256 {digest}",
                found=actual,
                remedy="The manifest was changed after it was recorded; restore it from the bucket's "
                "older versions.",
            )
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            raise Corrupt(
                where=str(place),
                expected="a manifest of this layout",
                found=str(error),
                remedy="Restore it from the bucket's older versions.",
            ) from error
        for path in manifest.files:
            check_relative_path(path, str(place))
        return manifest


def find_whole(store: ObjectStore, location: S3Uri, digest: str | None = None) -> Manifest | None:
    """The manifest of a merged model all of whose files are there; else None, and it has to be made again.

    Args:
        store: Where to look.
        location: The model's folder.
        digest: The SHA-256 that was recorded for the manifest, where one was.
    """
    try:
        manifest = Manifest.read(store, location, digest)
    except (Corrupt, Unreadable):
        return None
    return manifest if set(manifest.files) <= {item.path for item in store.list(location)} else None


def download_model(store: ObjectStore, location: S3Uri, manifest: Manifest, target: Path) -> None:
    """Downloads a merged model past any cache and compares every file with its manifest.

    Raises:
        Corrupt: A file is missing, changed, or not in the manifest.
    """
    downloaded = download_fresh(store, location, target)
    downloaded.pop(MANIFEST)
    if downloaded != dict(manifest.files):
        changed = sorted(dict(downloaded.items() ^ manifest.files.items()))
        raise Corrupt(
            where=str(location),
            expected="the recorded files",
            found=f"differences in {changed}",
            remedy="Restore them from the bucket's older versions, or build a new candidate.",
        )


def download_part(
    store: ObjectStore, location: S3Uri, manifest: Manifest, part: str, target: Path
) -> None:
    """Downloads one file of a merged model, or all files of one of its folders, and compares each.

    Args:
        store: Where to read from.
        location: The model's folder.
        manifest: The model's manifest.
        part: The file or folder, relative to the model's.
        target: The folder to write into, where they get the paths that they have in the model's.

    Raises:
        Corrupt: A file is not what its manifest says.
    """
    for path, digest in manifest.files.items():
        if path != part and not path.startswith(f"{part}/"):
            continue
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        store.download(location / path, target / path)
        if (found := sha256_file(target / path)) != digest:
            raise Corrupt(
                where=str(location / path),
                expected=f"SHA-256 {digest}",
                found=found,
                remedy="Restore it from the bucket's older versions.",
            )


def hash_files(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file below a directory, by relative POSIX path."""
    return {
        path.relative_to(directory).as_posix(): sha256_file(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
