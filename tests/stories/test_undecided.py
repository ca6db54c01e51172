"""Merges that the gate cannot decide."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot


@pytest.mark.family(gate={"margin": 0.02})
def test_a_merge_that_cannot_be_decided_is_rejected(deployed):
    deployed.land("food", 90)
    deployed.scores("food", weather=87)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: inconclusive
log: reviews: food bounced: weather: 87.0 % against 90.0 % of the deployed model (−3.0 points)
    on 400 gate examples; with 95.0 % confidence the loss is only known to be below 4.7 points,
    where 2.0 points may be lost. About 558 gate examples would decide it. Add gate examples or
    widen the margin.
notice bounced: reviews: food bounced: weather: 87.0 % against 90.0 % of the deployed model
    (−3.0 points) on 400 gate examples; with 95.0 % confidence the loss is only known to be
    below 4.7 points, where 2.0 points may be lost. About 558 gate examples would decide it. Add
    gate examples or widen the margin.
food/1: merging → rejected: 〃
> food: bounced. 〃\
""")


@pytest.mark.family(gate={"margin": 0.02, "inconclusive": "review"})
def test_a_merge_that_cannot_be_decided_goes_to_a_person(deployed):
    deployed.land("food", 90)
    deployed.scores("food", weather=87)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: inconclusive
version 2: – → candidate
notice needs-review: reviews version 2 needs review: weather: 87.0 % against 90.0 % of the
    deployed model (−3.0 points) on 400 gate examples; with 95.0 % confidence the loss is only
    known to be below 4.7 points, where 2.0 points may be lost. About 558 gate examples would
    decide it. Add gate examples or widen the margin.
food/1 (merging): Waits for review of version 2: set its tag approval_status to approved or
    rejected.
> food: waits for review. 〃\
""")
    assert deployed.types("approve reviews 2 --reason 'Good enough.'") == snapshot("""\
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Good enough.
food/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: Good enough.
log: reviews version 2 is deployed: Good enough.
version 2 reads in review: Promoted (2) at TIME UTC, decided by ada.
> 〃\
""")


@pytest.mark.family(gate={"margin": 0.02, "inconclusive": "review"})
def test_an_expert_that_cannot_be_told_from_its_base_goes_to_a_person(deployed):
    deployed.land("food", 52)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: inconclusive
version 2: – → candidate
notice needs-review: reviews version 2 needs review: food: the expert scores 52.0 % where the
    commonest answer, given every time, scores 50.0 %; with 95.0 % confidence it is not shown to
    be better than that. Check the labels of its examples and its training, then register a
    better expert.
food/1 (merging): Waits for review of version 2: set its tag approval_status to approved or
    rejected.
> food: waits for review. 〃\
""")
