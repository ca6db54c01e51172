"""The room that a cache may take on its disk: what was used least lately goes first, nothing in use.

Each process writes down what it uses in a file of its own under ``users/``, which it keeps locked for as
long as it lives; what a killed process used is free again, whatever it was killed by. Marking and
clearing exclude each other by a lock that is held for moments: what goes is moved aside under it, each
thing whole and at once, and deleted afterwards.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# Bytes that must stay free on the disk, for what a merge writes beside the cache.
HEADROOM = 1 << 30
_KINDS = ("blobs", "index", "trees", "work", "tmp", "users")


@dataclass
class _Thing:
    """Something that goes as a whole: a tree, a working folder, or a blob that is in no tree.

    Attributes:
        used: When it was used last, in nanoseconds.
        size: How many bytes go with it, without those of its blobs.
        blobs: Blobs that go with it, unless something else has them too.
    """

    path: Path
    used: int
    size: int = 0
    blobs: list[Path] = field(default_factory=list)


class Room:
    """What one process uses of a cache, and what has to go where the cache grows too large."""

    def __init__(self, root: Path, limit: int) -> None:
        """Looks after the cache in a folder.

        Args:
            root: The folder.
            limit: The most bytes that it may take, unless what is in use takes more.
        """
        self.root = root
        self._limit = limit
        self._used: list[str] = []
        self._mine: IO[str] | None = None
        self._pid = 0
        for name in _KINDS:
            (root / name).mkdir(parents=True, exist_ok=True)

    def use(self, path: Path) -> Path:
        """Keeps something for as long as this process lives, whether it is there yet or not."""
        with self._locked(fcntl.LOCK_SH):
            self._note([self._name(path)])
            with suppress(FileNotFoundError):
                facts, now = path.stat(), time.time_ns()
                # By the time of its change a blob is known to be sound; folders have only that.
                os.utime(path, ns=(now, now if path.is_dir() else facts.st_mtime_ns))
        return path

    def release(self, path: Path) -> None:
        """Says that something is not used any more."""
        with self._locked(fcntl.LOCK_SH):
            left = [name for name in self._used if name != self._name(path)]
            mine = self._open()
            mine.truncate(0)
            self._used.clear()
            self._note(left)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new folder for what is under way; that of a killed process is removed with what else goes."""
        with self._locked(fcntl.LOCK_SH):
            folder = self.root / "tmp" / Path(self._open().name).name / secrets.token_hex(4)
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def free(self) -> int:
        """Bytes that may still be written to the disk."""
        return shutil.disk_usage(self.root).free - HEADROOM

    def make(self, needed: int = 0) -> None:
        """Removes what was used least lately until there is room for so many bytes more.

        What is in use stays, so that there can be less room than that afterwards.
        """
        with self._locked(fcntl.LOCK_EX):
            living = self._living()
            gone = [p for p in (self.root / "tmp").iterdir() if p.name not in living]
            excess = max(self._taken() + needed - self._limit, needed - self.free())
            if excess > 0:
                aside = self.root / "tmp" / f"gone-{secrets.token_hex(4)}"
                aside.mkdir()
                gone.append(aside)
                self._move(excess, set().union(*living.values()), aside)
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)

    def _move(self, excess: int, in_use: set[str], aside: Path) -> None:
        """Moves the least lately used things aside until so many bytes are gone."""
        things = [t for t in self._things() if self._name(t.path) not in in_use]
        for thing in sorted(things, key=lambda thing: thing.used):
            if excess <= 0:
                break
            thing.path.rename(aside / secrets.token_hex(8))
            excess -= thing.size
            for blob in thing.blobs:
                facts = blob.stat()
                # One link is its own, one that of the tree which has just been moved.
                if facts.st_nlink <= 2 and self._name(blob) not in in_use:
                    blob.rename(aside / blob.name)
                    excess -= facts.st_size
        present = {blob.name for blob in (self.root / "blobs").iterdir()}
        for note in (self.root / "index").iterdir():
            if note.read_text() not in present:
                note.unlink()

    def _things(self) -> Iterator[_Thing]:
        blobs = {blob.stat().st_ino: blob for blob in (self.root / "blobs").iterdir()}
        for tree in (self.root / "trees").iterdir():
            inodes = {p.stat().st_ino for p in tree.rglob("*") if p.is_file()}
            files = [blobs[inode] for inode in inodes if inode in blobs]
            yield _Thing(tree, tree.stat().st_mtime_ns, blobs=files)
        for work in (self.root / "work").glob("*/*"):
            yield _Thing(work, work.stat().st_mtime_ns, _size(work))
        for blob in blobs.values():
            facts = blob.stat()
            if facts.st_nlink == 1:
                yield _Thing(blob, facts.st_atime_ns, facts.st_size)

    def _taken(self) -> int:
        return _size(self.root / "blobs") + _size(self.root / "work")

    def _living(self) -> dict[str, set[str]]:
        """What each living process uses, by the name of its file; files of dead ones are removed."""
        living = {}
        for path in (self.root / "users").iterdir():
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    living[path.name] = set(file.read().splitlines())
                else:
                    path.unlink()
        return living

    def _note(self, names: list[str]) -> None:
        mine = self._open()
        mine.writelines(f"{name}\n" for name in names)
        mine.flush()
        self._used += names

    def _open(self) -> IO[str]:
        """The file of this process; one that was forked has another than its parent."""
        if self._mine is None or self._pid != os.getpid():
            self._pid = os.getpid()
            name = f"{self._pid}-{secrets.token_hex(4)}"
            self._mine = (self.root / "users" / name).open("a+")
            fcntl.flock(self._mine, fcntl.LOCK_EX)
            used, self._used = self._used, []
            self._note(used)
        return self._mine

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with (self.root / "lock").open("a") as lock:
            fcntl.flock(lock, how)
            yield

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _size(folder: Path) -> int:
    """The bytes of all files in a folder, of which some may be removed meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total
