"""What every object store has to keep: the folder, the embedded S3, and whatever it is pointed at.

export SUPERMERGE_TEST_S3_BUCKET=... SUPERMERGE_TEST_S3_ENDPOINT=...    # docs/operations.md
.venv/bin/python -m pytest tests/infra/storage/test_contract.py -k own-server
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest

from infra.errors import Conflict, Corrupt, Unreadable
from infra.storage.cache import Cache, download_fresh
from infra.storage.folder import FolderStore
from infra.storage.layout import wanted_files
from infra.storage.promotions import PromotionLog
from infra.storage.s3 import S3Store
from infra.storage.store import ObjectStore, S3Uri, connect_store

OWN = "SUPERMERGE_TEST_S3_"
STORES = ["folder", pytest.param("seaweedfs", marks=pytest.mark.e2e)]
STORES += ["own-server"] if OWN + "BUCKET" in os.environ else []
WRITERS = 16
LARGE = bytes(range(256)) * 140_000  # 34 MiB: S3 gets it in three parts


def own_server() -> S3Store:
    names = {
        "endpoint_url": "ENDPOINT",
        "region_name": "REGION",
        "aws_access_key_id": "ACCESS_KEY",
        "aws_secret_access_key": "SECRET_KEY",
    }
    return S3Store(boto3.client("s3", **{k: os.environ.get(OWN + n) for k, n in names.items()}))


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ObjectStore, S3Uri]]:
    """A store and a folder in it that is empty before and afterwards."""
    folder = f"contract-{uuid.uuid4()}"
    if request.param == "folder":
        store, uri = FolderStore(tmp_path / "store"), S3Uri("supermerge", folder)
    elif request.param == "seaweedfs":
        settings = request.getfixturevalue("stack")
        store, uri = connect_store(settings), S3Uri(settings.bucket, folder)
    else:
        store, uri = own_server(), S3Uri(os.environ[OWN + "BUCKET"], folder)
    yield store, uri
    for item in store.list(uri):
        store.delete(item.uri)


@pytest.fixture
def store(place: tuple[ObjectStore, S3Uri]) -> ObjectStore:
    return place[0]


@pytest.fixture
def folder(place: tuple[ObjectStore, S3Uri]) -> S3Uri:
    return place[1]


def at_once(write: Callable[[int], object]) -> tuple[list[int], list[Exception]]:
    """Sixteen writers start together: the numbers of those that succeeded, and the others' errors."""
    with ThreadPoolExecutor(WRITERS) as pool:
        futures = {number: pool.submit(write, number) for number in range(WRITERS)}
    errors = {number: future.exception() for number, future in futures.items()}
    return [n for n, e in errors.items() if e is None], [e for e in errors.values() if e]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_written_is_read_listed_and_replaced(store, folder):
    store.write(folder / "two", b"2")
    before = store.list(folder)
    store.write(folder / "two", b"22")
    (after,) = store.list(folder)

    assert store.read(folder / "two") == b"22"
    assert (after.path, after.size, after.uri) == ("two", 2, folder / "two")
    assert after.etag != before[0].etag


def test_a_listing_is_in_the_order_of_keys_and_of_this_folder_alone(store, folder):
    for path in ("b", "a/z", "a-b", "a/b/c", "B", "a.b"):
        store.write(folder / "here" / path, path.encode())
    store.write(folder / "here-too/x", b"")

    listed = [(item.path, item.size) for item in store.list(folder / "here")]

    assert listed == [("B", 1), ("a-b", 3), ("a.b", 3), ("a/b/c", 5), ("a/z", 3), ("b", 1)]
    assert store.list(folder / "nowhere") == ()


def test_files_of_any_plain_name_come_back_under_it(store, folder, tmp_path):
    names = [
        "cat (1).jpg",
        "a+b %2B&c=d.png",
        "#3 ?.png",
        "grün.png",
        "g\u0072u\u0308n.png",
        "👨\u200d👩.png",
    ]
    names = sorted([*names, "a;b,c'd\"e~!@$^`{}[]<>|*.txt", "deeper/ü/no suffix"], key=str.encode)
    for name in names:
        (tmp_path / "file").write_text(name)
        store.upload(tmp_path / "file", folder / name)

    assert [item.path for item in store.list(folder)] == wanted_files(names, "here")
    files = download_fresh(store, folder, tmp_path / "down")

    assert files == {name: sha(name.encode()) for name in names}


def test_an_object_without_bytes_is_there(store, folder):
    store.write(folder / "empty", b"")
    assert store.exists(folder / "empty")
    assert store.read(folder / "empty") == b""
    assert not store.exists(folder), "a folder is no object"


def test_what_is_missing_is_unavailable_and_nothing_is_left_of_a_download(store, folder, tmp_path):
    target = tmp_path / "new" / "file"
    target.parent.mkdir()

    assert not store.exists(folder / "missing")
    with pytest.raises(Unreadable, match="does not exist"):
        store.read(folder / "missing")
    with pytest.raises(Unreadable, match="does not exist"):
        store.download(folder / "missing", target)
    assert list(target.parent.iterdir()) == []


def test_deleting_twice_is_deleting_once(store, folder):
    store.write(folder / "one", b"1")
    store.delete(folder / "one")
    store.delete(folder / "one")
    assert store.list(folder) == ()


def test_of_sixteen_writers_exactly_one_creates(store, folder):
    won, lost = at_once(lambda n: store.create(folder / "entry", f"writer {n}".encode()))

    assert len(won) == 1
    assert [type(error) for error in lost] == [Conflict] * (WRITERS - 1)
    assert store.read(folder / "entry") == f"writer {won[0]}".encode()


def test_creating_the_same_bytes_is_the_retry_of_a_lost_answer(store, folder):
    won, _ = at_once(lambda _: store.create(folder / "entry", b"same"))
    assert len(won) == WRITERS
    with pytest.raises(Conflict, match="another writer first"):
        store.create(folder / "entry", b"other")
    assert store.read(folder / "entry") == b"same"


def test_of_sixteen_promotions_on_the_same_state_one_is_committed(store, folder):
    log = PromotionLog(store, folder)

    def promote(number: int) -> None:
        log.append(
            None,
            version=number,
            location=str(folder / f"models/{number}"),
            manifest_sha256=f"{number:064d}",
            action="promote",
            decided_by=f"writer {number}",
            reason="because",
            run_id=f"run {number}",
            time=datetime.now(UTC),
        )

    won, lost = at_once(promote)

    assert len(won) == 1
    assert [type(error) for error in lost] == [Conflict] * (WRITERS - 1)
    assert [entry.version for entry in log.entries()] == won


def test_a_large_file_arrives_whole(store, folder, tmp_path):
    source = tmp_path / "large"
    source.write_bytes(LARGE)
    store.upload(source, folder / "models/large")

    assert download_fresh(store, folder, tmp_path / "fresh") == {"models/large": sha(LARGE)}
    assert [item.size for item in store.list(folder)] == [len(LARGE)]


def test_a_download_replaces_what_was_there(store, folder, tmp_path):
    store.write(folder / "file", b"new")
    target = tmp_path / "file"
    target.write_bytes(b"older and longer")
    store.download(folder / "file", target)
    assert target.read_bytes() == b"new"


def test_bytes_with_another_digest_than_recorded_are_noticed(store, folder, tmp_path):
    cache = Cache(tmp_path / "cache", store)
    expected = {"weights": sha(b"recorded")}
    store.write(folder / "weights", b"recorded")
    cache.pull(store.list(folder), expected)

    store.write(folder / "weights", b"replaced")

    tree, _ = cache.pull(store.list(folder), expected)
    assert (tree / "weights").read_bytes() == b"recorded", "it has what was recorded"
    with pytest.raises(Corrupt, match="was changed after it was recorded"):
        Cache(tmp_path / "another", store).pull(store.list(folder), expected)
