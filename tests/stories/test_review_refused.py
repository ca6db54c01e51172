"""Decisions of people that cannot be carried out, and what they read then."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot
from mlflow import MlflowClient

from infra.storage.store import S3Uri
from tests.stories.world import FAMILY, write_family

pytestmark = pytest.mark.family(promotion="review")


def test_a_decision_is_final(candidate):
    candidate.types("approve reviews 2")
    assert candidate.types("approve reviews 2") == snapshot("""\
> Version 2 is promoted, so it cannot be approved any more. Review the newest candidate, or roll
    back.\
""")
    assert candidate.types("reject reviews 2") == snapshot("""\
> Version 2 is promoted, so it cannot be rejected any more. Review the newest candidate, or roll
    back.\
""")
    assert candidate.types("promote reviews 2") == snapshot(
        "> Promoted (2) at TIME UTC, decided by ada."
    )
    candidate.tag(FAMILY, 2, "approval_status", "rejected")
    assert candidate.types("promote reviews 2") == snapshot("""\
log: reviews version 2: Refused: version 2 is promoted, so it cannot be rejected any more.
    Review the newest candidate, or roll back.
version 2 reads in review: Refused: version 2 is promoted, so it cannot be rejected any more.
    Review the newest candidate, or roll back.
> 〃\
""")


def test_without_a_decision_or_with_an_unknown_one_nothing_happens(candidate):
    assert candidate.types("promote reviews 2") == snapshot("""\
log: reviews version 2: Refused: approval_status is ''. Set it to one of: approved, rejected.
version 2 reads in review: Refused: approval_status is ''. Set it to one of: approved, rejected.
> 〃\
""")
    candidate.tag(FAMILY, 2, "approval_status", "ok")
    assert candidate.types("promote reviews 2") == snapshot("""\
log: reviews version 2: Refused: approval_status is 'ok'. Set it to one of: approved, rejected.
version 2 reads in review: Refused: approval_status is 'ok'. Set it to one of: approved,
    rejected.
> 〃\
""")


def test_a_stale_approval_is_refused(candidate):
    candidate.elsewhere_promoted(1)
    assert candidate.types("approve reviews 2") == snapshot("""\
version 1 (promoted): Meanwhile.
version 2: candidate → superseded: The candidate was built on promotion 1, but the newest is 2:
    the deployed model has changed. The next merge builds a new candidate on it.
log: reviews version 2: Refused: 〃
version 2 reads in review: Refused: 〃
> Refused: 〃\
""")
    assert candidate.sweep() == snapshot("""\
notice promoted: reviews version 1 is deployed: Meanwhile.
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 3: – → candidate
notice needs-review: reviews version 3 needs review: weather: 90.0 % against 90.0 % of the
    deployed model (0.0 points) on 400 gate examples; with 95.0 % confidence it loses less than
    0.7 points, and 5.0 points may be lost. weather: keeps 100.0 % of its expert's gain (+40.0
    of +40.0 points), where 40.0 % must stay. food: 90.0 % against 50.0 % of the deployed model
    (+40.0 points) on 400 gate examples; with 95.0 % confidence it is not worse at all. food:
    keeps 100.0 % of its expert's gain (+40.0 of +40.0 points), where 50.0 % must stay.
food/1 (merging): Waits for review of version 3: set its tag approval_status to approved or
    rejected.
> food: waits for review. 〃\
""")


def test_of_two_approvals_at_the_same_moment_one_is_refused(candidate):
    candidate.meanwhile(lambda: candidate.elsewhere_promoted(1))
    assert candidate.types("approve reviews 2") == snapshot("""\
version 2: candidate → superseded: s3://models/reviews/promotions/00000002.json was created by
    another writer first. Nothing was changed; run the command again to decide on the new state.
log: reviews version 2: Refused: 〃
version 2 reads in review: Refused: 〃
> Refused: 〃\
""")


def test_a_candidate_whose_files_changed_is_refused(candidate):
    candidate.change("reviews/2", "heads/food/config.json", "good", "bad")
    assert candidate.types("approve reviews 2") == snapshot("""\
log: reviews version 2: Refused: s3://models/reviews/merged/SHA256: expected the recorded files,
    found differences in ['heads/food/config.json']. Restore them from the bucket's older
    versions, or build a new candidate.
version 2 reads in review: Refused: s3://models/reviews/merged/SHA256: expected the recorded
    files, found differences in ['heads/food/config.json']. Restore them from the bucket's older
    versions, or build a new candidate.
> 〃\
""")


def test_a_candidate_that_is_not_well_is_refused(candidate):
    candidate.falls_ill()
    assert candidate.types("approve reviews 2") == snapshot("""\
log: reviews version 2: Refused: health check of the merged model on a fresh download: expected
    the answers that were judged, found others. Build it again.
version 2 reads in review: Refused: health check of the merged model on a fresh download:
    expected the answers that were judged, found others. Build it again.
> 〃\
""")


def test_a_tag_that_says_failed_is_not_believed_either(candidate):
    candidate.tag(FAMILY, 2, "validation_status", "failed")
    assert "Promoted (2)" in candidate.types("approve reviews 2")


@pytest.mark.family(promotion="review", gate={"margin": 0.05, "inconclusive": "review"})
def test_a_candidate_that_the_policy_does_not_accept_any_more_cannot_be_approved(deployed):
    deployed.land("food", 90, gate=60)
    deployed.sweep()
    write_family(deployed.queue.settings.families_dir, "http://127.0.0.1:9", promotion="review")
    deployed.tag(FAMILY, 2, "validation_status", "passed")
    assert deployed.types("approve reviews 2") == snapshot("""\
log: reviews version 2: Refused: the gate's verdict is inconclusive; only a candidate that
    passed it can be promoted. Read its report for what to improve.
version 2 reads in review: Refused: the gate's verdict is inconclusive; only a candidate that
    passed it can be promoted. Read its report for what to improve.
> 〃\
""")


def test_a_decision_that_was_refused_leaves_no_name_and_no_reason_to_the_next_person(candidate):
    candidate.falls_ill()
    assert "Refused" in candidate.types("approve reviews 2 --reason 'reads well'")
    candidate.given.sickness = None
    assert candidate.sweep() == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
> food: waits for review. Waits for review of version 2: set its tag approval_status to approved
    or rejected.\
""")
    candidate.tag(FAMILY, 2, "approval_status", "approved")
    candidate.types("promote reviews 2")
    entry = candidate.queue.promotions.newest()
    assert (entry.decided_by, entry.reason) == snapshot(
        ("a person, by approval_status in MLflow", "Approved in review.")
    )


def test_a_decision_that_somebody_changed_is_not_that_of_the_person_named_beside_it(candidate):
    candidate.types("freeze reviews")
    assert "Approved by ada, and waits" in candidate.types(
        "approve reviews 2 --reason 'reads well'"
    )
    candidate.tag(FAMILY, 2, "approval_status", "rejected")
    assert candidate.sweep() == snapshot("""\
food/1: merging → rejected: Rejected in review of version 2 by a person, by approval_status in
    MLflow: no reason given.
version 2: candidate → rejected: 〃
version 2 reads in review: 〃
log: no expert is waiting
> No expert is waiting.\
""")
    assert "merge.decided-by" not in MlflowClient().get_model_version(FAMILY, "2").tags


@pytest.mark.parametrize("decision", ["approved", "rejected"])
@pytest.mark.parametrize(
    "source",
    [
        "s3://models/uploads/forged",
        f"s3://models/reviews/merged/{'0' * 64}",
        "s3://models/reviews/merged/../merged/x",
        "file:///etc",
    ],
)
def test_a_version_that_somebody_made_in_mlflow_is_neither_promoted_nor_rejected(
    candidate, source, decision
):
    """Its tags say that it passed and was approved, and its files are its author's."""
    client, queue = MlflowClient(), candidate.queue
    real = client.get_model_version(FAMILY, "2")
    if source.startswith("s3://models/") and ".." not in source:
        for item in queue.store.list(S3Uri.parse(real.source)):
            queue.store.write(S3Uri.parse(source) / item.path, queue.store.read(item.uri))
    tags = real.tags | {"approval_status": decision, "validation_status": "passed"}
    client.create_model_version(FAMILY, source, tags=tags, await_creation_for=0)
    log = queue.promotions.entries()
    unknown = "Nothing is done with it; review a version that the queue registered."
    assert unknown in " ".join(candidate.types(f"promote {FAMILY} 3").split())
    candidate.sweep()
    assert queue.promotions.entries() == log
    assert queue.registry.experts.get("reviews-food", 1).status == "merging"
    assert unknown in " ".join(candidate.types(f"pull {FAMILY} x --version 3").split())


def test_an_expert_that_is_spoilt_while_it_waits_for_review_is_rejected(candidate):
    candidate.change("reviews-food/1", "config.json", '"hidden_size": 8', '"hidden_size": 16')
    assert candidate.sweep() == snapshot("""\
log: reviews: food bounced: reviews-food/1 does not fit its base:
  config.hidden_size: expected 8, found 16
The base's weights answer otherwise with this setting, or do not fit it: fine-tune the expert
    with the base's, or correct its config.json if it was trained with that.
notice bounced: reviews: food bounced: reviews-food/1 does not fit its base:
  config.hidden_size: expected 8, found 16
The base's weights answer otherwise with this setting, or do not fit it: fine-tune the expert
    with the base's, or correct its config.json if it was trained with that.
food/1: merging → rejected: 〃
> food: bounced. reviews-food/1 does not fit its base:
> config.hidden_size: expected 8, found 16
> The base's weights answer otherwise with this setting, or do not fit it: fine-tune the expert
    with the base's, or correct its config.json if it was trained with that.\
""")


def test_an_expert_that_breaks_something_while_it_waits_for_review_is_held(candidate):
    candidate.given.unreadable.add("food")
    candidate.change("reviews-food/1", "config.json", '"good"', '"better"')
    candidate.change("reviews-food/1", "examples.jsonl", '"good"', '"better"')
    assert candidate.sweep() == snapshot("""\
log: Looking at it failed: reviews-food/1
log: reviews: food held: Looking at it failed: ValueError: operands could not be broadcast
    together. The flow run has the traceback. Mend the cause, then: supermerge release
    reviews-food/1
notice held: reviews: food held: Looking at it failed: ValueError: operands could not be
    broadcast together. The flow run has the traceback. Mend the cause, then: supermerge release
    reviews-food/1
food/1: merging → held: 〃
> food: held. 〃\
""")
