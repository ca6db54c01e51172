"""A content-addressed cache on local disk for what was pulled from S3.

``blobs/<sha256>`` holds each file once, ``index/`` remembers which object had which digest, and
``trees/<digest>/`` are directories of hard links into the blobs. Every entry is written beside its
place, synced and renamed, so a killed run leaves nothing half-written under a final name, and two runs
can share the cache. It is only a copy, which is kept within its room (:mod:`infra.storage.room`), and it
is believed by its digest only: what a run pulls it hashes once, and fetches again what a disk or a person
has changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from infra.errors import Corrupt, Unavailable
from infra.names import check_relative_path
from infra.storage.room import HEADROOM, Room
from infra.storage.store import ObjectStore, S3Uri, StoredObject

_LOG = logging.getLogger(__name__)
_ENDLESS = 1 << 62  # Bytes that no disk has.
_LINKED_FROM = 1 << 20  # Bytes.


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(files: Mapping[str, str]) -> str:
    """One digest of a directory from the SHA-256 of each file by relative path."""
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def sync(path: Path) -> None:
    """Has the disk write a file before its name can be seen."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


class Cache:
    """Pulls objects through local disk.

    Attributes:
        room: What of it is in use, and what goes where it grows too large.
    """

    def __init__(self, root: Path, store: ObjectStore, limit: int = _ENDLESS) -> None:
        """Uses the cache in a folder, which takes at most so many bytes beside what is in use."""
        self.root = root
        self._store = store
        self.room = Room(root, limit)
        # Digests by inode, size and time: what a process has hashed it does not hash again.
        self._digests: dict[tuple[int, int, int], str] = {}

    def pull(
        self, objects: Iterable[StoredObject], expected: Mapping[str, str] | None = None
    ) -> tuple[Path, dict[str, str]]:
        """Pulls objects into one directory.

        Args:
            objects: What to pull; their ``path`` becomes the path in the directory.
            expected: SHA-256 by path. Where given, exactly these files must come out.

        Returns:
            The directory (read-only, shared) and the SHA-256 of each file by path.

        Raises:
            Corrupt: A file is missing or has another digest than expected.
            Unavailable: The disk is too small; nothing was downloaded.
        """
        wanted = {check_relative_path(o.path, str(o.uri)): o for o in objects}
        if expected is not None and set(expected) - set(wanted):
            raise Corrupt(
                where="object store",
                expected="every recorded file",
                found=f"that some are missing: {sorted(set(expected) - set(wanted))}",
                remedy="Restore them from the bucket's older versions.",
            )
        if expected is not None:
            wanted = {path: wanted[path] for path in expected}
        known = {path: self._known(o) for path, o in wanted.items()}
        for path, digest in (expected or {}).items():
            if known[path] is None and self._blob(digest):
                known[path] = digest  # Another object had the same bytes.
        self._check_room(wanted[path] for path, digest in known.items() if digest is None)
        files = {path: known[path] or self._fetch(o) for path, o in wanted.items()}
        for path, digest in (expected or {}).items():
            if files[path] != digest:
                raise Corrupt(
                    where=str(wanted[path].uri),
                    expected=f"SHA-256 {digest}",
                    found=files[path],
                    remedy="The object was changed after it was recorded; restore the recorded "
                    "version.",
                )
        return self._tree(files), files

    def read(self, item: StoredObject) -> bytes:
        """The bytes of a small object, fetched once for as long as it stays what it is.

        Raises:
            Unreadable: It is gone.
        """
        digest = self._known(item)
        if digest is None:
            digest = self._keep(self._store.read(item.uri))
            self._remember(item, digest)
        return (self.root / "blobs" / digest).read_bytes()

    def read_recorded(self, uri: S3Uri, digest: str) -> bytes:
        """The bytes of a small object whose digest is on record, fetched once.

        Whatever is there now is returned where it is not that; the caller compares.

        Raises:
            Unreadable: It is gone.
        """
        if blob := self._blob(digest):
            return blob.read_bytes()
        data = self._store.read(uri)
        self._keep(data)
        return data

    def find(self, digest: str) -> tuple[Path, dict[str, str]] | None:
        """The directory of this digest with the SHA-256 of each file, where it was pulled before.

        Nothing is asked of the store: bytes are known by their digest.
        """
        tree = self.room.use(self.root / "trees" / digest)
        if not tree.is_dir():
            return None
        paths = [path for path in tree.rglob("*") if not path.is_dir()]
        files = {p.relative_to(tree).as_posix(): self._digest(p) for p in paths}
        return (tree, files) if sha256_tree(files) == digest else None

    def add(self, folder: Path, files: Mapping[str, str]) -> None:
        """Takes in a copy of files that were made here, so that they need not be pulled.

        Args:
            folder: Where they are; they are not changed any more.
            files: SHA-256 by relative path.
        """
        for path, digest in files.items():
            if self._blob(digest) is None:
                with self.room.scratch() as scratch:
                    large = (folder / path).stat().st_size > _LINKED_FROM
                    # Weights are written once; what is small may be written over by another try.
                    (os.link if large else shutil.copyfile)(folder / path, scratch / "object")
                    self._put(scratch / "object", digest)
        self._tree(files)

    def _known(self, item: StoredObject) -> str | None:
        note = self._note(item)
        digest = note.read_text() if note.exists() else ""
        return digest if digest and self._blob(digest) else None

    def _blob(self, digest: str) -> Path | None:
        """The file of this content, from now on in use; None where it is not there, or damaged."""
        blob = self.room.use(self.root / "blobs" / digest)
        return blob if blob.is_file() and self._is_sound(blob) else None

    def _is_sound(self, blob: Path) -> bool:
        """Whether a file still is what its name says; it is hashed once, and removed if it is not."""
        if self._digest(blob) == blob.name:
            return True
        _LOG.warning("%s is damaged and is fetched again", blob)
        blob.unlink(missing_ok=True)
        return False

    def _digest(self, path: Path) -> str:
        facts = path.lstat()
        state = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if state not in self._digests:
            self._digests[state] = sha256_file(path)
        return self._digests[state]

    def _fetch(self, item: StoredObject) -> str:
        with self.room.scratch() as folder:
            self._store.download(item.uri, folder / "object")
            digest = self._put(folder / "object", sha256_file(folder / "object"))
        self._remember(item, digest)
        return digest

    def _keep(self, data: bytes) -> str:
        """Keeps some bytes; gives their digest."""
        with self.room.scratch() as folder:
            (folder / "object").write_bytes(data)
            return self._put(folder / "object", hashlib.sha256(data).hexdigest())

    def _put(self, file: Path, digest: str) -> str:
        file.chmod(0o444)
        sync(file)
        file.replace(self.room.use(self.root / "blobs" / digest))
        return digest

    def _remember(self, item: StoredObject, digest: str) -> None:
        with self.room.scratch() as folder:
            note = folder / "note"
            note.write_text(digest)
            sync(note)
            note.replace(self._note(item))

    def _note(self, item: StoredObject) -> Path:
        identity = f"{item.uri}\n{item.etag}\n{item.size}"
        return self.root / "index" / hashlib.sha256(identity.encode()).hexdigest()

    def _tree(self, files: Mapping[str, str]) -> Path:
        final = self.room.use(self.root / "trees" / sha256_tree(files))
        if self._is_tree(final, files):
            return final
        with self.room.scratch() as folder:
            tree = folder / "tree"
            for path, digest in files.items():
                link = tree / path
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(self.root / "blobs" / digest, link)
            try:
                if final.exists():  # It has files that are not the blobs any more.
                    final.rename(folder / "old")
                tree.rename(final)
            except OSError:
                if not self._is_tree(final, files):  # Else another run has just made the same tree.
                    raise
        return final

    def _is_tree(self, tree: Path, files: Mapping[str, str]) -> bool:
        """Whether a tree holds just the present blobs of these files."""
        there = {p.relative_to(tree).as_posix() for p in tree.rglob("*") if not p.is_dir()}
        blobs = self.root / "blobs"
        return there == set(files) and all(
            (tree / path).samefile(blobs / digest) for path, digest in files.items()
        )

    def _check_room(self, items: Iterable[StoredObject]) -> None:
        needed = sum(item.size for item in items)
        self.room.make(needed)
        if needed > (free := self.room.free()):
            raise Unavailable(
                f"{self.root} has {free + HEADROOM:,} bytes free, {needed:,} are to be pulled and "
                f"{HEADROOM:,} must stay free.",
                "Free some space, or move the cache to a larger disk.",
            )


def download_fresh(store: ObjectStore, prefix: S3Uri, target: Path) -> dict[str, str]:
    """Downloads every object below ``prefix`` past any cache.

    Returns:
        The SHA-256 of each file by path relative to ``prefix``.
    """
    files = {}
    for item in store.list(prefix):
        path = target / check_relative_path(item.path, str(item.uri))
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(item.uri, path)
        files[item.path] = sha256_file(path)
    return files
