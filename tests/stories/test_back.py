"""Rollback, repair, audit, and runs that meet each other or die."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from flows.rollback import rollback
from infra.errors import Refused
from tests.stories.world import FAMILY


def test_a_rollback_holds_what_only_the_newer_version_had(two):
    assert two.types("rollback reviews --reason 'trying it out'") == snapshot("""\
champion is version 1
previous is no version
version 1: superseded → promoted: Rolled back from version 2: trying it out.
version 2: promoted → rolled-back: Rolled back by version 1 (promotion 3).
food/1: merged → held: Not in the deployed version 1 any more: 〃 To merge it again: supermerge
    release reviews-food/1
notice rolled-back: reviews is back at version 1: 〃
> Version 1 is deployed (promotion 3).\
""")
    assert two.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")
    assert two.types("release reviews-food/1") == snapshot("""\
food/1: held → waiting: Released.
> reviews-food/1 is waiting again; the next merge takes it.\
""")
    assert two.sweep() == snapshot("""\
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 3: – → candidate
champion is version 3
previous is version 1
version 1: promoted → superseded: Followed by version 3 (promotion 4).
version 3: candidate → promoted: Merges food; the gate passed on every task.
food/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> food: promoted. 〃\
""")
    assert two.types("history reviews") == snapshot("""\
> History of reviews
> ┏━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┓
> ┃ no. ┃ time (UTC)       ┃ action   ┃ version ┃ scores        ┃ decided by   ┃ reason                                         ┃
> ┡━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┩
> │ 1   │ TIME │ promote  │ 1       │ weather 0.900 │ policy: auto │ Merges weather; the gate passed on every task. │
> │ 2   │ TIME │ promote  │ 2       │ weather 0.900 │ policy: auto │ Merges food; the gate passed on every task.    │
> │     │                  │          │         │ food 0.900    │              │                                                │
> │ 3   │ TIME │ rollback │ 1       │ weather 0.900 │ ada          │ Rolled back from version 2: trying it out.     │
> │ 4   │ TIME │ promote  │ 3       │ weather 0.900 │ policy: auto │ Merges food; the gate passed on every task.    │
> │     │                  │          │         │ food 0.900    │              │                                                │
> └─────┴──────────────────┴──────────┴─────────┴───────────────┴──────────────┴────────────────────────────────────────────────┘\
""")
    assert two.types("diff reviews 1 3") == snapshot("""\
> reviews: version 1 → 3
> ┏━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┓
> ┃ task    ┃ expert             ┃ score     ┃ mean coefficient ┃
> ┡━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━┩
> │ weather │ reviews-weather/1  │ 0.900     │ 0.500            │
> │ food    │ – → reviews-food/1 │ – → 0.900 │ – → 0.500        │
> └─────────┴────────────────────┴───────────┴──────────────────┘\
""")


def test_a_rollback_can_be_taken_back(two):
    two.types("rollback reviews")
    assert two.types("rollback reviews --to 2") == snapshot("""\
champion is version 2
previous is version 1
version 1: promoted → rolled-back: Rolled back by version 2 (promotion 4).
version 2: rolled-back → promoted: Rolled back from version 1.
food/1: held → merged: Merged in version 2.
notice rolled-back: reviews is back at version 2: Rolled back from version 1.
> Version 2 is deployed (promotion 4).\
""")


def test_there_must_be_something_to_go_back_to(deployed):
    assert deployed.types("rollback reviews") == snapshot(
        "> Family 'reviews' has no version before the present one. Promote another first."
    )
    assert deployed.types("rollback reviews --to 7") == snapshot("""\
> Version 7 cannot be gone back to: deployed until now were [1], at present 1. Choose one of the
    earlier ones.\
""")


def test_a_rollback_goes_by_the_log_whatever_mlflow_says_of_the_version(two):
    first = two.queue.promotions.entries()[0]
    two.tag(FAMILY, 1, "merge.manifest-sha256", "0" * 64)
    two.types("rollback reviews")
    assert two.queue.promotions.newest().model == first.model


@pytest.mark.family(promotion="review")
def test_a_rollback_supersedes_the_candidate(two):
    two.land("sport", 90)
    two.sweep()
    assert two.types("rollback reviews --reason 'wrong labels'") == snapshot("""\
version 3: candidate → superseded: Rolled back from version 2: wrong labels.
champion is version 1
previous is no version
version 1: superseded → promoted: 〃
version 2: promoted → rolled-back: Rolled back by version 1 (promotion 3).
food/1: merged → held: Not in the deployed version 1 any more: 〃 To merge it again: supermerge
    release reviews-food/1
notice rolled-back: reviews is back at version 1: 〃
> Version 1 is deployed (promotion 3).\
""")


def test_aliases_and_statuses_changed_by_hand_are_repaired(two):
    two.point("champion", 1)
    two.tag(FAMILY, 2, "merge.status", "rejected")
    two.tag("reviews-food", 1, "merge.status", "rejected")
    two.tag("reviews-weather", 1, "merge.status", "held")
    assert two.sweep() == snapshot("""\
champion is version 2
version 2: rejected → promoted: Merges food; the gate passed on every task.
weather/1: held → merged: Merged in version 2.
food/1: rejected → merged: Merged in version 2.
log: no expert is waiting
> No expert is waiting.\
""")


def test_a_run_killed_before_any_task_is_finished_by_the_next(undisturbed, deployed):
    deployed.land("food", 90)
    deployed.dies_once_before_each_task()
    runs = []
    while not runs or "killed before" in runs[-1]:
        runs.append(deployed.sweep())

    assert len(runs) > 20
    assert "\n".join(runs).count("notice promoted: reviews version 2 is deployed") == 1
    assert "\n".join(runs[-3:]) == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
killed before check_health
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
killed before commit
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges food; the gate passed on every task.
food/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
> food: promoted. 〃\
""")
    assert deployed.types("history reviews") == snapshot("""\
> History of reviews
> ┏━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┓
> ┃ no. ┃ time (UTC)       ┃ action  ┃ version ┃ scores        ┃ decided by   ┃ reason                                         ┃
> ┡━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┩
> │ 1   │ TIME │ promote │ 1       │ weather 0.900 │ policy: auto │ Merges weather; the gate passed on every task. │
> │ 2   │ TIME │ promote │ 2       │ weather 0.900 │ policy: auto │ Merges food; the gate passed on every task.    │
> │     │                  │         │         │ food 0.900    │              │                                                │
> └─────┴──────────────────┴─────────┴─────────┴───────────────┴──────────────┴────────────────────────────────────────────────┘\
""")
    assert deployed.files() == undisturbed


def test_of_two_runs_at_the_same_moment_one_commits(deployed):
    deployed.land("food", 90)
    deployed.meanwhile(lambda: deployed.elsewhere_promoted(1))
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 2: – → candidate
log: the deployed model changed meanwhile; starting over on it
version 1 (promoted): Meanwhile.
notice promoted: reviews version 1 is deployed: Meanwhile.
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 3: – → candidate
version 2: candidate → superseded: Version 3 merges newer experts.
champion is version 3
previous is version 1
version 1: promoted → superseded: Followed by version 3 (promotion 3).
version 3: candidate → promoted: Merges food; the gate passed on every task.
food/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> food: promoted. 〃\
""")
    assert deployed.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")


def test_a_candidate_that_is_not_well_is_not_promoted(deployed):
    deployed.land("food", 90)
    deployed.falls_ill()
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
    deployed.types("release reviews-food/1")
    assert "food: promoted" in deployed.sweep()


def test_a_server_that_does_not_answer_once_is_asked_again(deployed):
    deployed.land("food", 90)
    deployed.server_stumbles()
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
register_candidate is tried again: connection reset by peer
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


def test_a_notice_that_does_not_arrive_stops_nothing(deployed):
    deployed.inbox.broken = True
    deployed.land("food", 90)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 2: – → candidate
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges food; the gate passed on every task.
food/1: merging → merged: Merged in version 2.
log: notification to target 1 of reviews failed: it answered 503
log: reviews version 2 is deployed: 〃
> food: promoted. 〃\
""")


def test_a_changed_base_stops_every_merge(deployed):
    deployed.land("food", 90)
    deployed.queue.store.write(deployed.queue.family.base_uri / "vocab.txt", b"other")
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
notice run-failed: reviews: a run of continual-merge failed: s3://models/bases/tiny: expected
    digest SHA256, from which the deployed version 1 was merged, found SHA256. A family has one
    base for good: restore it, or start a new family for the new base.
> 〃\
""")


def test_a_rollback_is_committed_while_mlflow_is_down_and_the_next_sweep_shows_it(two):
    with two.mlflow_is_down():
        assert two.types("rollback reviews") == snapshot("""\
supersede_candidates is tried again: connection refused
supersede_candidates is tried again: connection refused
supersede_candidates is tried again: connection refused
log: MLflow will show it after the next sweep: connection refused
notice rolled-back: reviews is back at version 1: Rolled back from version 2.
> Version 1 is deployed (promotion 3).\
""")
    assert two.queue.promotions.newest().version == 1
    assert two.sweep() == snapshot("""\
champion is version 1
previous is no version
version 1: superseded → promoted: Rolled back from version 2.
version 2: promoted → rolled-back: Rolled back by version 1 (promotion 3).
food/1: merged → held: Not in the deployed version 1 any more: Rolled back from version 2. To
    merge it again: supermerge release reviews-food/1
log: no expert is waiting
> No expert is waiting.\
""")


def test_a_merge_that_is_under_way_loses_against_a_rollback_and_starts_over(two):
    two.land("sport", 90)
    two.meanwhile(lambda: two.types("rollback reviews"))
    assert two.sweep() == snapshot("""\
log: the deployed model changed meanwhile; starting over on it
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 4: – → candidate
champion is version 4
previous is version 1
version 1: promoted → superseded: Followed by version 4 (promotion 4).
version 4: candidate → promoted: Merges sport; the gate passed on every task.
sport/1: merging → merged: Merged in version 4.
notice promoted: reviews version 4 is deployed: 〃
log: reviews version 4 is deployed: 〃
> sport: promoted. 〃\
""")
    assert [entry.version for entry in two.queue.promotions.entries()] == [1, 2, 1, 4]
    assert two.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")


def test_a_rollback_loses_against_a_promotion_at_the_same_moment_and_says_so(two):
    two.meanwhile(lambda: two.elsewhere_promoted(2))
    assert two.types("rollback reviews") == snapshot("""\
> Version 2 was deployed (promotion 3, decided by another run) after the rollback from version 2
    was asked for. Nothing was changed. To go back to version 1 all the same: supermerge
    rollback reviews --to 1\
""")


def test_a_rollback_without_a_target_means_away_from_what_was_deployed_when_asked(two):
    """Else it would go back to the very version that one wanted to get away from."""
    asked = two.queue.promotions.newest().sequence
    two.land("sport", 90)
    two.sweep()
    with pytest.raises(Refused) as refused:
        rollback(FAMILY, away_from=asked)
    assert str(refused.value) == snapshot(
        "Version 3 was deployed (promotion 3, decided by policy: auto) after the rollback from version 2 was asked for. Nothing was changed. To go back to version 1 all the same: supermerge rollback reviews --to 1"
    )
    assert two.queue.promotions.newest().version == 3
    assert rollback(FAMILY, to=1, away_from=asked).version == 1


def test_a_version_to_go_back_to_that_is_damaged_is_named_and_so_are_the_others(two):
    two.land("sport", 90)
    two.sweep()
    two.change("reviews/2", "heads/food/config.json", "good", "bad")
    assert two.types("rollback reviews") == snapshot("""\
> Version 2 cannot be gone back to. s3://models/reviews/merged/SHA256: expected the recorded
    files, found differences in ['heads/food/config.json']. Restore them from the bucket's older
    versions, or build a new candidate. Others were deployed before: 1; supermerge rollback
    reviews --to VERSION\
""")
    assert "Version 1 is deployed" in two.types("rollback reviews --to 1")


def test_a_rollback_to_a_given_version_is_carried_out_whatever_was_deployed_meanwhile(two):
    two.meanwhile(lambda: two.elsewhere_promoted(2))
    assert "Version 1 is deployed (promotion 4)" in two.types("rollback reviews --to 1")


def test_a_freeze_at_the_same_moment_does_not_keep_a_rollback_from_being_carried_out(two):
    two.meanwhile(lambda: two.types("freeze reviews"))
    assert "Version 1 is deployed (promotion 4)" in two.types("rollback reviews")
    assert two.queue.promotions.newest().frozen
