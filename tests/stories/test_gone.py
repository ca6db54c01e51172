"""What is gone, or cannot be read: it is named, and everything else goes on."""

from __future__ import annotations

import errno
import sqlite3

import pytest
from inline_snapshot import snapshot
from mlflow import MlflowClient

from infra.storage.store import S3Uri, StoredObject
from merging.errors import InvalidInput
from tests.stories.world import FAMILY


def test_the_previous_version_deleted_in_mlflow_stops_nothing(two):
    two.delete(f"{FAMILY}/1")
    two.land("sport", 90)
    assert two.sweep() == snapshot("""\
sport/1: – → waiting
log: the alias previous cannot be set: version 1 of reviews is gone from MLflow
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 3: – → candidate
champion is version 3
previous is version 2
version 2: promoted → superseded: Followed by version 3 (promotion 3).
version 3: candidate → promoted: Merges sport; the gate passed on every task.
sport/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> sport: promoted. 〃\
""")


def test_a_rollback_to_a_version_deleted_in_mlflow_is_committed(two):
    two.delete(f"{FAMILY}/1")
    assert two.types("rollback reviews") == snapshot("""\
log: the alias champion cannot be set: version 1 of reviews is gone from MLflow
version 2: promoted → rolled-back: Rolled back by version 1 (promotion 3).
food/1: merged → held: Not in the deployed version 1 any more: Rolled back from version 2. To
    merge it again: supermerge release reviews-food/1
notice rolled-back: reviews is back at version 1: Rolled back from version 2.
> Version 1 is deployed (promotion 3).\
""")
    assert two.queue.promotions.newest().version == 1


def test_the_deployed_version_deleted_in_mlflow_stops_nothing(two):
    two.delete(f"{FAMILY}/2")
    two.land("sport", 90)
    assert two.sweep() == snapshot("""\
sport/1: – → waiting
log: the alias champion cannot be set: version 2 of reviews is gone from MLflow
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 3: – → candidate
log: the alias previous cannot be set: version 2 of reviews is gone from MLflow
champion is version 3
version 3: candidate → promoted: Merges sport; the gate passed on every task.
sport/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> sport: promoted. 〃\
""")


def test_a_damaged_manifest_of_the_deployed_version_does_not_stop_a_rollback(two):
    two.change(f"{FAMILY}/2", "manifest.json", "food", "fool")
    assert two.types("rollback reviews") == snapshot("""\
champion is version 1
previous is no version
version 1: superseded → promoted: Rolled back from version 2.
version 2: promoted → rolled-back: Rolled back by version 1 (promotion 3).
food/1: merged → held: Not in the deployed version 1 any more: Rolled back from version 2. To
    merge it again: supermerge release reviews-food/1
notice rolled-back: reviews is back at version 1: Rolled back from version 2.
> Version 1 is deployed (promotion 3).\
""")
    assert two.queue.promotions.newest().version == 1


def test_an_expert_whose_files_are_gone_is_held_and_the_others_go_on(deployed):
    for task, source in (
        ("gone", S3Uri("models", "uploads/nothing")),
        ("elsewhere", S3Uri("strangers", "uploads/x")),
    ):
        deployed.register(task, source)
    deployed.land("food", 90)
    assert deployed.sweep() == snapshot("""\
gone/1: – → waiting
elsewhere/1: – → waiting
food/1: – → waiting
log: reviews: gone bounced: source of reviews-gone/1: expected the files of an expert, found
    nothing below s3://models/uploads/nothing. Register it again with `supermerge register`.
notice bounced: reviews: gone bounced: source of reviews-gone/1: expected the files of an
    expert, found nothing below s3://models/uploads/nothing. Register it again with `supermerge
    register`.
gone/1: waiting → rejected: 〃
log: reviews: elsewhere bounced: source of reviews-elsewhere/1: expected one of the family's
    buckets: models, found s3://strangers/uploads/x. Copy the expert there, or add the bucket to
    `expert_buckets`.
notice bounced: reviews: elsewhere bounced: source of reviews-elsewhere/1: expected one of the
    family's buckets: models, found s3://strangers/uploads/x. Copy the expert there, or add the
    bucket to `expert_buckets`.
elsewhere/1: waiting → rejected: 〃
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 2: – → candidate
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges food; the gate passed on every task.
food/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
> gone: bounced. 〃
> elsewhere: bounced. 〃
> food: promoted. 〃\
""")


@pytest.mark.family(promotion="review")
def test_a_candidate_whose_expert_was_deleted_can_still_be_rejected(candidate):
    candidate.delete("reviews-food/1")
    assert candidate.types("reject reviews 2 --reason unwanted") == snapshot("""\
version 2: candidate → rejected: Rejected in review of version 2 by ada: unwanted.
version 2 reads in review: 〃
> 〃\
""")


def test_a_fault_in_learning_that_nobody_foresaw_holds_the_expert_and_the_others_go_on(deployed):
    deployed.land("food", 90)
    deployed.land("sport", 90)
    deployed.fails("food", error=ValueError("image file is truncated"))
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
sport/1: – → waiting
food/1: waiting → merging
sport/1: waiting → merging
log: Merging it failed: reviews-food/1 reviews-sport/1
log: food, sport do not pass together; trying halves
log: Merging it failed: reviews-food/1
log: reviews: food held: Merging it failed: ValueError: image file is truncated. The flow run
    has the traceback. Mend the cause, then: supermerge release reviews-food/1
notice held: reviews: food held: Merging it failed: ValueError: image file is truncated. The
    flow run has the traceback. Mend the cause, then: supermerge release reviews-food/1
food/1: merging → held: 〃
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 2: – → candidate
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges sport; the gate passed on every task.
sport/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
> food: held. 〃
> sport: promoted. 〃\
""")


@pytest.mark.family(ladder=["chain", "relearn"])
def test_a_rung_that_cannot_be_climbed_is_gone_around(deployed):
    error = InvalidInput(
        where="coefficients", expected="plain ones", found="tsv-m", remedy="Relearn."
    )
    deployed.land("food", 90)
    deployed.fails("food", error=error, rung="chain")
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
log: chain of food cannot be tried: coefficients: expected plain ones, found tsv-m. Relearn.
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 2: – → candidate
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges food; the gate passed on every task.
food/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
> food: promoted. 〃\
""")


def test_a_full_disk_is_nobodys_fault(deployed):
    deployed.land("food", 90)
    deployed.fails("food", error=OSError(errno.ENOSPC, "No space left on device"))
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
notice run-failed: reviews: a run of continual-merge failed: The system: No space left on
    device. Nothing is free at some disk. Free some space; the cache may be deleted at any time.
> 〃\
""")
    deployed.given.rules.clear()
    assert "promoted" in deployed.sweep()


def test_a_candidate_that_is_not_well_holds_its_expert_and_the_others_go_on(deployed):
    deployed.falls_ill()
    deployed.land("food", 90)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 2: – → candidate
version 2: candidate → superseded: health check of the merged model on a fresh download:
    expected the answers that were judged, found others. Build it again.
log: reviews: food held: 〃 To build it again: supermerge release reviews-food/1
notice held: reviews: food held: 〃 To build it again: supermerge release reviews-food/1
food/1: merging → held: 〃 To build it again: supermerge release reviews-food/1
> food: held. 〃 To build it again: supermerge release reviews-food/1\
""")
    deployed.given.sickness = None
    deployed.land("sport", 90)
    assert "sport: promoted" in deployed.sweep()
    deployed.types("release reviews-food/1")
    assert "food: promoted" in deployed.sweep()


@pytest.mark.family(promotion="review")
@pytest.mark.parametrize(
    "gone", ["model/model.safetensors", "manifest.json", "attempt", "attempt damaged", "run"]
)
def test_an_attempt_that_cannot_be_read_back_is_made_again(candidate, gone):
    """The sweep after it builds the candidate again, and a person can approve it."""
    queue = candidate.queue
    source = S3Uri.parse(MlflowClient().get_model_version(FAMILY, "2").source)
    attempt = S3Uri("models", f"reviews/attempts/{source.key.rpartition('/')[2]}.json")
    if gone == "run":
        database = sqlite3.connect(queue.settings.mlflow_uri.removeprefix("sqlite:///"))
        run = MlflowClient().get_model_version(FAMILY, "2").run_id
        for table in ("latest_metrics", "metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run,))
        database.commit()
        database.close()
    elif gone == "attempt damaged":
        queue.store.write(attempt, b"{}")
    else:
        queue.store.delete(attempt if gone == "attempt" else source / gone)
    candidate.sweep()
    newest = max(int(v.version) for v in MlflowClient().search_model_versions(f"name = '{FAMILY}'"))
    assert "Promoted" in candidate.types(f"approve reviews {newest}")


def expert_files(queue, task) -> list[StoredObject]:
    return queue.queue.store.list(S3Uri("models", f"uploads/{task}"))


def test_a_file_that_was_added_to_the_folder_of_a_deployed_expert_is_named_and_left_aside(two):
    two.queue.store.write(S3Uri("models", "uploads/food/food-0-400/notes.json"), b"[]")
    two.land("sport", 90)
    assert two.sweep() == snapshot("""\
sport/1: – → waiting
log: s3://models/uploads/food/food-0-400: notes.json came after the expert was merged and is
    left aside
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 3: – → candidate
champion is version 3
previous is version 2
version 2: promoted → superseded: Followed by version 3 (promotion 3).
version 3: candidate → promoted: Merges sport; the gate passed on every task.
sport/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> sport: promoted. 〃\
""")


@pytest.mark.parametrize("fault", ["gone", "damaged"])
def test_a_deployed_expert_that_is_lost_holds_nobody_back_and_a_person_decides_to_do_without(
    two, fault
):
    """Though the family is automatic; and where the files come back, nothing is given up."""
    store = two.queue.store
    before = {item.uri: store.read(item.uri) for item in expert_files(two, "food")}
    for uri in before:
        store.delete(uri) if fault == "gone" else store.write(uri, b"{}")
    two.land("sport", 90)
    seen = two.sweep()
    if fault == "gone":
        assert seen == snapshot("""\
sport/1: – → waiting
sport/1: waiting → merging
log: reviews-food/1 cannot be merged again, and the candidate is without it.
    s3://models/uploads/food/food-0-400 (expert of 'food'): expected the files of the expert,
    found that config.json, examples.jsonl, model.safetensors is gone. Restore it from the
    bucket's older versions, or take the expert out: supermerge withdraw reviews-food/1
food/1 (merged): reviews-food/1 cannot be merged again, and the candidate is without it.
    s3://models/uploads/food/food-0-400 (expert of 'food'): expected the files of the expert,
    found that config.json, examples.jsonl, model.safetensors is gone. Restore it from the
    bucket's older versions, or take the expert out: supermerge withdraw reviews-food/1
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport without food: passed
version 3: – → candidate
notice needs-review: reviews version 3 needs review: s3://models/uploads/food/food-0-400 (expert
    of 'food'): expected the files of the expert, found that config.json, examples.jsonl,
    model.safetensors is gone. Restore it from the bucket's older versions, or take the expert
    out: supermerge withdraw reviews-food/1 weather: 90.0 % against 90.0 % of the deployed model
    (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than 0.7 points, and
    5.0 points may be lost. weather: keeps 100.0 % of its expert's gain (+40.0 of +40.0 points),
    where 40.0 % must stay. sport: 90.0 % against 50.0 % of the deployed model (+40.0 points) on
    400 gate examples; with 95.0 % confidence it is not worse at all. sport: keeps 100.0 % of
    its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay.
sport/1 (merging): Waits for review of version 3: set its tag approval_status to approved or
    rejected.
> sport, food: waits for review. 〃\
""")
    assert "sport, food: waits for review" in seen
    assert two.queue.promotions.newest().version == 2
    assert "sport, food: waits for review" in two.sweep()
    if fault == "damaged":
        for uri, data in before.items():
            store.write(uri, data)
        assert two.sweep() == snapshot("""\
version 3: candidate → superseded: reviews-food/1, which it takes out, is not withdrawn any
    more.
food/1 (merged): Its files are there again.
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 4: – → candidate
champion is version 4
previous is version 2
version 2: promoted → superseded: Followed by version 4 (promotion 3).
version 4: candidate → promoted: Merges sport; the gate passed on every task.
sport/1: merging → merged: Merged in version 4.
notice promoted: reviews version 4 is deployed: 〃
log: reviews version 4 is deployed: 〃
> sport: promoted. 〃\
""")
        return
    assert "Promoted (3)" in two.types("approve reviews 3")
    assert sorted(two.queue.registry.merged.get(FAMILY, 3).tags.experts) == ["sport", "weather"]


def test_a_base_that_is_gone_is_named_and_the_copy_in_the_cache_is_used(two):
    two.land("sport", 90)
    two.sweep()
    for item in two.queue.store.list(two.queue.family.base_uri):
        two.queue.store.delete(item.uri)
    two.land("music", 90)
    seen = " ".join(two.sweep().split())
    assert "expected a checkpoint below s3://models/bases/tiny, found nothing" in seen
    assert "The copy on this machine, from which the deployed model was merged, is used." in seen
    assert "music: promoted" in seen
