"""A frozen family: candidates are built, nothing is promoted, and a rollback is still carried out."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot


def test_what_passes_in_a_frozen_family_waits_for_the_thaw(two):
    assert two.types("freeze reviews --reason 'an incident'") == snapshot(
        """\
notice frozen: reviews is frozen at version 2: By ada: an incident
> reviews is frozen at version 2 (entry 3).\
"""
    )
    two.land("sport", 90)
    assert two.sweep() == snapshot("""\
sport/1: – → waiting
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 3: – → candidate
sport/1 (merging): Passed in version 3, which waits. The family is frozen since TIME UTC by ada:
    an incident. To go on: supermerge thaw reviews
> sport: waits for a thaw. 〃\
""")
    assert two.sweep() == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
> sport: waits for a thaw. Passed in version 3, which waits. The family is frozen since TIME UTC
    by ada: an incident. To go on: supermerge thaw reviews\
""")
    assert two.types("status reviews").splitlines()[:2] == snapshot(
        [
            "> reviews: champion version 2, mode auto",
            "> The family is frozen since TIME UTC by ada: an incident. To go on: supermerge thaw reviews",
        ]
    )
    assert two.types("thaw reviews --reason over") == snapshot(
        """\
notice thawed: reviews is thawed at version 2: By ada: over
> reviews is thawed at version 2 (entry 4).\
"""
    )
    assert two.sweep() == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
champion is version 3
previous is version 2
version 2: promoted → superseded: Followed by version 3 (promotion 5).
version 3: candidate → promoted: Merges sport; the gate passed on every task.
sport/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> sport: promoted. 〃\
""")
    assert two.types("history reviews") == snapshot("""\
> History of reviews
> ┏━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┓
> ┃ no. ┃ time (UTC)       ┃ action  ┃ version ┃ scores        ┃ decided by   ┃ reason                                         ┃
> ┡━━━━━╇━━━━━━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┩
> │ 1   │ TIME │ promote │ 1       │ weather 0.900 │ policy: auto │ Merges weather; the gate passed on every task. │
> │ 2   │ TIME │ promote │ 2       │ weather 0.900 │ policy: auto │ Merges food; the gate passed on every task.    │
> │     │                  │         │         │ food 0.900    │              │                                                │
> │ 3   │ TIME │ freeze  │ 2       │               │ ada          │ an incident                                    │
> │ 4   │ TIME │ thaw    │ 2       │               │ ada          │ over                                           │
> │ 5   │ TIME │ promote │ 3       │ weather 0.900 │ policy: auto │ Merges sport; the gate passed on every task.   │
> │     │                  │         │         │ food 0.900    │              │                                                │
> │     │                  │         │         │ sport 0.900   │              │                                                │
> └─────┴──────────────────┴─────────┴─────────┴───────────────┴──────────────┴────────────────────────────────────────────────┘\
""")
    assert two.types("audit reviews") == snapshot("""\
> ✓ version 3: every file has the recorded digest
> ✓ it answers as it did when it was judged
> ✓ rebuilding it from base, experts and coefficients gives the same bytes
> ✓ its scores are those of the decision
> ✓ aliases and tags in MLflow are those that the queue wrote
> ✓ the log is whole from promotion 1 to 5, and all that it names is there\
""")


def test_a_merge_that_is_under_way_loses_against_a_freeze(deployed):
    deployed.land("food", 90)
    deployed.meanwhile(lambda: deployed.types("freeze reviews"))
    assert deployed.sweep() == snapshot("""\
food/1 (merging): Passed in version 2, which waits. The family is frozen since TIME UTC by ada:
    no reason given. To go on: supermerge thaw reviews
> food: waits for a thaw. 〃\
""")
    assert [entry.action for entry in deployed.queue.promotions.entries()] == ["promote", "freeze"]


@pytest.mark.family(promotion="review")
@pytest.mark.parametrize("at_the_same_moment", [False, True])
def test_an_approval_in_a_frozen_family_is_carried_out_after_the_thaw(
    candidate, at_the_same_moment
):
    if at_the_same_moment:
        candidate.meanwhile(lambda: candidate.types("freeze reviews"))
    else:
        candidate.types("freeze reviews")
    approved = candidate.types("approve reviews 2 --reason 'Reads well.'")
    assert "version 2 reads in review: Approved by ada, and waits." in approved
    candidate.sweep()
    assert candidate.queue.promotions.newest().version == 1
    candidate.types("thaw reviews")
    candidate.sweep()
    newest = candidate.queue.promotions.newest()
    assert (newest.version, newest.decided_by, newest.reason) == (2, "ada", "Reads well.")


def test_a_frozen_family_is_rolled_back_and_stays_frozen(two):
    two.types("freeze reviews")
    two.types("rollback reviews")
    two.land("sport", 90)
    two.sweep()
    entries = two.queue.promotions.entries()
    assert [(entry.action, entry.version, entry.frozen) for entry in entries[2:]] == [
        ("freeze", 2, True),
        ("rollback", 1, True),
    ]
    two.types("thaw reviews")
    assert "promoted" in two.sweep()


def test_a_freeze_and_a_thaw_that_change_nothing_are_refused(queue):
    assert queue.types("freeze reviews") == snapshot("""\
> Family 'reviews' has no deployed model that could be kept. With `promotion: review` in its
    file nothing is promoted without you.\
""")
    assert queue.types("thaw reviews") == snapshot(
        "> Family 'reviews' is not frozen. Nothing was changed."
    )
    queue.land("weather", 90)
    queue.sweep()
    queue.types("freeze reviews --reason 'an incident'")
    assert queue.types("freeze reviews") == snapshot(
        "> The family is frozen since TIME UTC by ada: an incident. To go on: supermerge thaw reviews"
    )


def test_a_family_is_frozen_while_mlflow_is_down(two):
    with two.mlflow_is_down():
        two.types("freeze reviews")
    assert two.queue.promotions.newest().frozen


def test_a_freeze_that_meets_a_promotion_comes_after_it(two):
    two.meanwhile(lambda: two.elsewhere_promoted(1))
    assert two.types("freeze reviews") == snapshot("""\
notice promoted: reviews version 1 is deployed: Meanwhile.
notice frozen: reviews is frozen at version 1: By ada: no reason given
> reviews is frozen at version 1 (entry 4).\
""")
    assert [entry.version for entry in two.queue.promotions.entries()] == [1, 2, 1, 1]
