"""The cache keeps within its room; what somebody uses stays, and nobody finds anything half gone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.storage.cache import Cache
from infra.storage.store import ObjectStore, S3Uri

KB = 1000


def fill(store: ObjectStore, folder: S3Uri, *names: str) -> None:
    for name in names:
        store.write(folder / name / "weights", name[0].encode() * KB)


def pull(store: ObjectStore, cache: Cache, folder: S3Uri, name: str) -> Path:
    tree, files = cache.pull(store.list(folder / name))
    assert files == {"weights": hashlib.sha256(name[0].encode() * KB).hexdigest()}
    return tree


def contents(root: Path) -> set[str]:
    """The first letters of all blobs; each is in a tree of its own, and has a note."""
    blobs = {path.name: path.read_text()[0] for path in (root / "blobs").iterdir()}
    notes = {path.read_text() for path in (root / "index").iterdir()}
    trees = {
        tree for path in (root / "trees").iterdir() if (tree := (path / "weights").stat().st_ino)
    }
    assert notes == set(blobs)
    assert trees == {(root / "blobs" / name).stat().st_ino for name in blobs}
    return set(blobs.values())


def test_what_was_used_least_lately_goes_first(store, folder, tmp_path):
    fill(store, folder, "a", "b", "c", "d")
    for name in ("a", "b", "c", "a"):  # One process after the other
        pull(store, Cache(tmp_path, store, limit=3 * KB), folder, name)
        time.sleep(0.01)
    pull(store, Cache(tmp_path, store, limit=3 * KB), folder, "d")
    assert contents(tmp_path) == {"a", "c", "d"}
    assert list((tmp_path / "tmp").glob("*/*")) == []


def test_work_counts_and_goes_as_a_whole_once_it_is_done(store, folder, tmp_path):
    fill(store, folder, "a", "b")
    cache = Cache(tmp_path, store, limit=3 * KB)
    work = cache.room.use(tmp_path / "work/family/key")
    (work / "vectors").mkdir(parents=True)
    (work / "vectors/one").write_bytes(bytes(2 * KB))
    pull(store, cache, folder, "a")
    pull(store, cache, folder, "b")
    assert (work / "vectors/one").exists(), "it is in use"
    cache.room.release(work)
    cache.room.make()
    assert not work.exists()
    assert contents(tmp_path) == {"a", "b"}


def test_what_two_trees_share_goes_with_the_last_of_them(store, folder, tmp_path):
    fill(store, folder, "a", "b")
    store.write(folder / "b" / "shared", b"s" * KB)
    store.write(folder / "a" / "shared", b"s" * KB)
    for name in ("a", "b"):
        Cache(tmp_path, store).pull(store.list(folder / name))
        time.sleep(0.01)
    Cache(tmp_path, store, limit=2 * KB).room.make()
    assert {p.name for p in (tmp_path / "trees").glob("*/*")} == {"weights", "shared"}
    assert sorted(p.read_text()[0] for p in (tmp_path / "blobs").iterdir()) == ["b", "s"]
    Cache(tmp_path, store, limit=KB).room.make()
    assert list((tmp_path / "trees").iterdir()) == list((tmp_path / "blobs").iterdir()) == []


USER = """
import sys
from pathlib import Path
from infra.storage.cache import Cache
from infra.storage.folder import FolderStore
from infra.storage.store import S3Uri
store = FolderStore(Path(sys.argv[1]))
cache = Cache(Path(sys.argv[2]), store, limit=2000)
"""


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_what_another_process_uses_stays_until_it_ends_however_it_ends(store, folder, tmp_path):
    fill(store, folder, "a", "b", "c")
    root = tmp_path / "cache"
    code = """
tree, _ = cache.pull(store.list(S3Uri("bucket", "folder/a")))
with cache.room.scratch() as scratch:
    (scratch / "half").write_text("…")
    print(tree, flush=True)
    input()
"""
    other = run(code, tmp_path / "store", root)
    tree = Path(other.stdout.readline().strip())
    for name in ("b", "c", "b"):
        pull(store, Cache(root, store, limit=KB), folder, name)
    assert (tree / "weights").read_text() == "a" * KB
    assert len(list((root / "tmp").glob("*/*/half"))) == 1
    other.kill()
    other.wait()
    pull(store, Cache(root, store, limit=KB), folder, "b")
    assert contents(root) == {"b"}
    assert list((root / "tmp").iterdir()) == []


def test_processes_that_drive_out_each_others_files_never_miss_their_own(store, folder, tmp_path):
    names = "abcdefgh"
    fill(store, folder, *names)
    code = """
import random
for turn in range(80):
    name = random.choice("abcdefgh")
    cache = Cache(cache.root, store, limit=2000)  # What was used before is not in use any more.
    tree, _ = cache.pull(store.list(S3Uri("bucket", f"folder/{name}")))
    assert (tree / "weights").read_text() == name * 1000
"""
    processes = [run(code, tmp_path / "store", tmp_path / "cache") for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    Cache(tmp_path / "cache", store, limit=2 * KB).room.make()
    assert len(contents(tmp_path / "cache")) <= 2


@pytest.mark.parametrize("free", [KB - 1, KB])
def test_a_disk_that_runs_full_is_cleared_before_anything_is_refused(
    store, folder, tmp_path, monkeypatch, free
):
    """Also of what is within the limit, since other things take room on the disk too."""
    fill(store, folder, "a", "b")
    pull(store, Cache(tmp_path, store), folder, "a")
    cache = Cache(tmp_path, store)
    there = free - KB  # While `a` lies there.
    monkeypatch.setattr(
        cache.room, "free", lambda: there + KB * (not any((tmp_path / "blobs").iterdir()))
    )
    if free < KB:
        with pytest.raises(Exception, match="1,000 are to be pulled"):
            pull(store, cache, folder, "b")
    else:
        pull(store, cache, folder, "b")
        assert contents(tmp_path) == {"b"}
