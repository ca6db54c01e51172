"""The promotion log: what is deployed, and the way back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from infra.errors import Conflict, Corrupt
from infra.storage.promotions import PromotionLog, model_before
from infra.storage.store import S3Uri
from merging.errors import InvalidInput


@pytest.fixture
def log(store, folder) -> PromotionLog:
    return PromotionLog(store, folder)


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


def test_the_log_keeps_every_entry_and_knows_the_newest(log):
    assert log.newest() is None
    first = append(log, None, 1)
    second = append(log, first, 2)

    assert log.entries() == (first, second)
    assert log.newest() == second
    assert (second.sequence, second.previous) == (2, 1)


def test_of_two_decisions_on_the_same_state_the_second_is_refused(log):
    first = append(log, None, 1)
    append(log, first, 2, run_id="winner")

    with pytest.raises(Conflict):
        append(log, first, 3, run_id="loser")
    assert log.newest().version == 2


def test_a_retried_commit_finds_its_own_first_try(log):
    committed = append(log, None, 1)

    assert append(log, None, 1) == committed
    assert len(log.entries()) == 1


def test_rolling_back_twice_goes_two_steps_back(log):
    entry = append(log, append(log, append(log, None, 1), 2), 3)
    assert model_before(log.entries()).version == 2
    entry = append(log, entry, 2, "rollback")
    assert model_before(log.entries()).version == 1
    append(log, entry, 1, "rollback")
    assert model_before(log.entries()) is None


def test_an_entry_under_another_number_is_no_entry(log, store, folder):
    first = append(log, None, 1)
    store.write(folder / "00000002.json", first.model_dump_json().encode())

    with pytest.raises(Corrupt, match="found promotion 1"):
        log.newest()


def test_a_gap_in_the_log_is_noticed_by_every_reader(log, store, folder):
    append(log, append(log, append(log, None, 1), 2), 3)
    store.write(folder / "note.txt", b"not part of the log")
    assert [entry.version for entry in log.entries()] == [1, 2, 3]
    store.delete(folder / "00000002.json")
    for read in (log.newest, log.entries):
        with pytest.raises(Corrupt, match=r"expected promotion 2 after promotion 1"):
            read()


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "file:///etc", "s3://b/a/../c", "/etc"])
def test_other_places_than_s3_folders_are_refused(uri):
    with pytest.raises(InvalidInput, match="s3://bucket/prefix"):
        S3Uri.parse(uri)
