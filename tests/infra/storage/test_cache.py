"""The cache pulls each file once, and notices what is missing."""

from __future__ import annotations

import hashlib
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
