"""The object store, the cache and the promotion log against a real S3 server."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.errors import Conflict, Corrupt, Unavailable
from infra.storage.cache import Cache, download_fresh, sha256_tree
from infra.storage.promotions import PromotionLog, version_before
from infra.storage.store import ObjectStore, S3Uri
from merging.errors import InvalidInput

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def store(stack) -> ObjectStore:
    return ObjectStore.connect(stack)


@pytest.fixture
def folder(request) -> S3Uri:
    return S3Uri("supermerge", f"store-tests/{request.node.name}")


@pytest.fixture
def cache(tmp_path: Path, store: ObjectStore) -> Cache:
    return Cache(tmp_path / "cache", store)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_written_is_read_listed_and_deleted(store, folder):
    store.write(folder / "a/one", b"1")
    store.write(folder / "two", b"22")

    assert [(item.path, item.size) for item in store.list(folder)] == [("a/one", 1), ("two", 2)]
    assert store.read(folder / "two") == b"22"
    store.delete(folder / "two")
    assert not store.exists(folder / "two")
    with pytest.raises(Unavailable, match="does not exist"):
        store.read(folder / "two")


def test_of_many_writers_exactly_one_creates(store, folder):
    won, lost = [], []

    def write(number: int) -> None:
        try:
            store.create(folder / "entry", f"writer {number}".encode())
            won.append(number)
        except Conflict:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert len(lost) == 7
    assert store.read(folder / "entry") == f"writer {won[0]}".encode()


def test_creating_the_same_bytes_again_is_the_retry_of_a_lost_answer(store, folder):
    store.create(folder / "entry", b"same")
    store.create(folder / "entry", b"same")


def test_files_come_through_the_cache_once_and_read_only(store, cache, folder):
    store.write(folder / "model/weights", b"weights")
    first, files = cache.pull(store.list(folder))

    assert files == {"model/weights": sha(b"weights")}
    assert (first / "model/weights").read_bytes() == b"weights"
    assert (first / "model/weights").stat().st_mode & 0o222 == 0
    second, _ = cache.pull(store.list(folder))
    assert second == first
    assert first.name == sha256_tree(files)


def test_a_file_that_changed_in_the_store_is_noticed(store, cache, folder):
    store.write(folder / "weights", b"recorded")
    expected = {"weights": sha(b"recorded")}
    cache.pull(store.list(folder), expected)

    store.write(folder / "weights", b"replaced")

    with pytest.raises(Corrupt, match="was changed after it was recorded"):
        cache.pull(store.list(folder), expected)


def test_a_file_that_is_missing_in_the_store_is_noticed(store, cache, folder):
    with pytest.raises(Corrupt, match="missing"):
        cache.pull(store.list(folder), {"weights": sha(b"")})


def test_large_files_arrive_whole_in_parts(store, folder, tmp_path):
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * 140_000)  # 34 MiB: three parts
    store.upload(source, folder / "large")

    files = download_fresh(store, folder, tmp_path / "fresh")

    assert files == {"large": sha(source.read_bytes())}


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "file:///etc", "s3://b/a/../c", "/etc"])
def test_other_places_than_s3_folders_are_refused(uri):
    with pytest.raises(InvalidInput, match="s3://bucket/prefix"):
        S3Uri.parse(uri)


def append(log: PromotionLog, after, version: int, action="promote", run_id="run"):
    return log.append(
        after,
        version=version,
        location=f"s3://supermerge/models/{version}",
        manifest_sha256=f"{version:064d}",
        action=action,
        decided_by="test",
        reason="because",
        run_id=run_id,
        time=datetime.now(UTC),
    )


def test_the_log_keeps_every_entry_and_knows_the_newest(store, folder):
    log = PromotionLog(store, folder)
    assert log.newest() is None
    first = append(log, None, 1)
    second = append(log, first, 2)

    assert log.entries() == (first, second)
    assert log.newest() == second
    assert (second.sequence, second.previous) == (2, 1)


def test_of_two_decisions_on_the_same_state_the_second_is_refused(store, folder):
    log = PromotionLog(store, folder)
    first = append(log, None, 1)
    append(log, first, 2, run_id="winner")

    with pytest.raises(Conflict):
        append(log, first, 3, run_id="loser")
    assert log.newest().version == 2


def test_a_retried_commit_finds_its_own_first_try(store, folder):
    log = PromotionLog(store, folder)
    committed = append(log, None, 1)

    assert append(log, None, 1) == committed
    assert len(log.entries()) == 1


def test_rolling_back_twice_goes_two_steps_back(store, folder):
    log = PromotionLog(store, folder)
    entry = append(log, append(log, append(log, None, 1), 2), 3)
    assert version_before(log.entries()) == 2
    entry = append(log, entry, 2, "rollback")
    assert version_before(log.entries()) == 1
    append(log, entry, 1, "rollback")
    assert version_before(log.entries()) is None


def test_an_entry_under_another_number_is_no_entry(store, folder):
    log = PromotionLog(store, folder)
    first = append(log, None, 1)
    store.write(folder / "00000007.json", first.model_dump_json().encode())

    with pytest.raises(Corrupt, match="found promotion 1"):
        log.newest()
