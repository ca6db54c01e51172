"""An object store that is a folder: ``<root>/<bucket>/<key>``. For trials and tests.

Every object is written beside its place and then renamed, or linked where it must not exist yet: a
hard link fails on a name that is taken, so of several writers exactly one creates an object.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from infra.errors import Conflict
from infra.names import check_relative_path
from infra.storage.store import S3Uri, StoredObject, missing
from merging.errors import InvalidInput

# No bucket can have this name.
_BESIDE = ".beside"


class FolderStore:
    """Objects as files. As in S3 a bucket is a name; unlike there, it is made when it is used."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / _BESIDE).mkdir(parents=True, exist_ok=True)

    def list(self, prefix: S3Uri) -> tuple[StoredObject, ...]:
        """Every object below ``prefix``, in the order of the bytes of their keys."""
        folder = self._path(prefix)
        paths = (Path(at) / name for at, _, names in os.walk(folder) for name in names)
        files = {}
        for path in paths:
            with suppress(FileNotFoundError):  # It was deleted meanwhile.
                files[path.relative_to(folder).as_posix()] = path.lstat()
        return tuple(
            # Every write makes a new file, so inode and time change with the content.
            StoredObject(
                prefix / key,
                key,
                facts.st_size,
                f"{facts.st_ino:x}-{facts.st_mtime_ns:x}",
                datetime.fromtimestamp(facts.st_mtime, UTC),
            )
            for key, facts in sorted(files.items())
            if stat.S_ISREG(facts.st_mode)
        )

    def exists(self, uri: S3Uri) -> bool:
        """True if the object is there."""
        return self._path(uri).is_file()

    def read(self, uri: S3Uri) -> bytes:
        """The bytes of a small object; raises Unreadable when it is not there."""
        with _missing_as(uri):
            return self._path(uri).read_bytes()

    def write(self, uri: S3Uri, data: bytes) -> None:
        """Writes a small object, replacing what was there."""
        with self._beside() as file:
            file.write_bytes(data)
            file.replace(self._place(uri))

    def create(self, uri: S3Uri, data: bytes) -> None:
        """Creates an object only if it does not exist: of two writers exactly one succeeds.

        Raises:
            Conflict: An object with other bytes is already there.
        """
        with self._beside() as file:
            file.write_bytes(data)
            try:
                os.link(file, self._place(uri))
            except FileExistsError:
                if self.read(uri) != data:
                    raise Conflict(str(uri)) from None

    def prove_create(self, folder: S3Uri) -> None:
        """A hard link fails on a name that is taken, which no disk gets wrong."""

    def delete(self, uri: S3Uri) -> None:
        """Removes an object; nothing happens where there is none."""
        path = self._path(uri)
        if path.is_file():
            path.unlink(missing_ok=True)

    def download(self, uri: S3Uri, target: Path) -> None:
        """Copies an object to a file, which is then complete or, after an error, absent.

        Raises:
            Unreadable: There is no such object, or it may not be read.
        """
        with _missing_as(uri), _new_file(target.parent) as beside:
            shutil.copyfile(self._path(uri), beside)
            beside.replace(target)

    def upload(self, source: Path, uri: S3Uri) -> None:
        """Copies a file to an object, replacing what was there."""
        with self._beside() as file:
            shutil.copyfile(source, file)
            file.replace(self._place(uri))

    def _beside(self) -> AbstractContextManager[Path]:
        """A file to write on the same disk."""
        return _new_file(self._root / _BESIDE)

    def _place(self, uri: S3Uri) -> Path:
        path = self._path(uri)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            taken = path.is_dir()
        except (FileExistsError, NotADirectoryError):
            taken = True
        if taken:
            raise InvalidInput(
                where=str(uri),
                expected="a key that is not also the folder of other keys",
                found="both, which a folder on disk cannot hold",
                remedy="Choose another key, or use S3.",
            )
        return path

    def _path(self, uri: S3Uri) -> Path:
        """Where an object lies; never outside its bucket, whatever its key or a link says."""
        bucket = self._root / check_relative_path(uri.bucket, "bucket")
        path = bucket / check_relative_path(uri.key, str(uri))
        if not path.resolve().is_relative_to(bucket.resolve()):
            raise InvalidInput(
                where=str(uri),
                expected="a file inside its bucket",
                found=f"a link to {path.resolve()}",
                remedy="Remove the link and copy what it points to.",
            )
        return path


@contextmanager
def _new_file(folder: Path) -> Iterator[Path]:
    """The path of a file that nobody else has, gone afterwards unless it was moved to its place."""
    file = folder / f".{uuid4().hex}"
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def _missing_as(uri: S3Uri) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise missing(uri) from error
