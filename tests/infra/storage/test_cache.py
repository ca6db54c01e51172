"""The cache pulls each file once, and notices what is missing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from infra.errors import Corrupt
from infra.storage.cache import Cache, sha256_tree
from infra.storage.store import ObjectStore


@pytest.fixture
def cache(tmp_path: Path, store: ObjectStore) -> Cache:
    return Cache(tmp_path / "cache", store)


def test_files_come_through_the_cache_once_and_read_only(store, cache, folder, monkeypatch):
    store.write(folder / "model/weights", b"weights")
    first, files = cache.pull(store.list(folder))

    assert files == {"model/weights": hashlib.sha256(b"weights").hexdigest()}
    assert (first / "model/weights").read_bytes() == b"weights"
    assert (first / "model/weights").stat().st_mode & 0o222 == 0
    assert first.name == sha256_tree(files)
    monkeypatch.setattr(store, "download", None)
    assert cache.pull(store.list(folder)) == (first, files)


def test_a_file_that_is_missing_in_the_store_is_noticed(store, cache, folder):
    with pytest.raises(Corrupt, match="missing"):
        cache.pull(store.list(folder), {"weights": "0" * 64})


@pytest.mark.parametrize(
    "fault", ["changed", "truncated", "replaced in the tree", "added to the tree"]
)
def test_what_changed_on_the_disk_is_not_believed(store, cache, folder, fault):
    """Neither by another run, nor by the one that pulled it."""
    store.write(folder / "weights", b"weights")
    tree, files = cache.pull(store.list(folder))
    blob = cache.root / "blobs" / files["weights"]
    blob.chmod(0o644)
    if fault == "changed":
        blob.write_bytes(b"WEIGHTS")
    elif fault == "truncated":
        os.truncate(blob, 3)
    elif fault == "replaced in the tree":
        (tree / "weights").unlink()
        (tree / "weights").write_bytes(b"WEIGHTS")
    else:
        (tree / "config.json").write_text("{}")
    for run in (cache, Cache(cache.root, store)):
        again, _ = run.pull(store.list(folder))
        assert {p.name: p.read_bytes() for p in again.iterdir()} == {"weights": b"weights"}
