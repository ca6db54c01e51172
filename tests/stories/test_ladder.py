"""Rungs, bisection, and merges that come to nothing."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from merging.errors import NonFinite

NAN = NonFinite(
    where="loss of food at step 3",
    expected="a finite number",
    found="nan",
    remedy="Lower the learning rate.",
)


@pytest.mark.family(ladder=["chain", "relearn"])
def test_a_chain_that_passes_is_enough(deployed):
    deployed.land("food", 90)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-chain-decision, reviews-chain-scores, reviews-chain-report
log: chain of food: passed
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


@pytest.mark.family(ladder=["chain", "relearn"])
def test_where_the_chain_fails_all_is_learned_again(deployed):
    deployed.land("food", 90)
    deployed.scores(rung="chain", food=60)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-chain-decision, reviews-chain-scores, reviews-chain-report
log: chain of food: failed
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


@pytest.mark.family(ladder=["chain", "relearn"])
def test_the_first_expert_has_nothing_to_hang_a_chain_on(queue):
    queue.land("weather", 90)
    assert queue.sweep() == snapshot("""\
weather/1: – → waiting
weather/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of weather: passed
version 1: – → candidate
champion is version 1
version 1: candidate → promoted: Merges weather; the gate passed on every task.
weather/1: merging → merged: Merged in version 1.
notice promoted: reviews version 1 is deployed: 〃
log: reviews version 1 is deployed: 〃
> weather: promoted. 〃\
""")


@pytest.mark.family(ladder=["relearn", "relearn-row"])
def test_rows_are_tried_where_tensors_are_not_enough(deployed):
    deployed.land("food", 90)
    deployed.scores(rung="relearn", food=60)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: failed
Prefect shows reviews-relearn-row-decision, reviews-relearn-row-scores,
    reviews-relearn-row-report
log: relearn-row of food: passed
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


@pytest.mark.family(ladder=["chain", "relearn", "relearn-row"])
def test_an_expert_that_fails_on_every_rung_is_rejected_with_the_last_report(deployed):
    deployed.land("food", 90)
    deployed.scores(food=60)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-chain-decision, reviews-chain-scores, reviews-chain-report
log: chain of food: failed
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: failed
Prefect shows reviews-relearn-row-decision, reviews-relearn-row-scores,
    reviews-relearn-row-report
log: relearn-row of food: failed
log: reviews: food bounced: food: keeps 25.0 % of its expert's gain (+10.0 of +40.0 points),
    where 50.0 % must stay. Try re-learning all coefficients instead of only the new ones, more
    calibration examples, or coefficients per row.
notice bounced: reviews: food bounced: food: keeps 25.0 % of its expert's gain (+10.0 of +40.0
    points), where 50.0 % must stay. Try re-learning all coefficients instead of only the new
    ones, more calibration examples, or coefficients per row.
food/1: merging → rejected: 〃
> food: bounced. 〃\
""")


def test_one_of_three_spoils_the_merge_and_halves_find_it(deployed):
    for task in ("cars", "food", "sport"):
        deployed.land(task, 90)
    deployed.scores("food", weather=70)
    assert deployed.sweep() == snapshot("""\
cars/1: – → waiting
food/1: – → waiting
sport/1: – → waiting
cars/1: waiting → merging
food/1: waiting → merging
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of cars, food, sport: failed
log: cars, food, sport do not pass together; trying halves
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of cars: passed
version 2: – → candidate
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges cars; the gate passed on every task.
cars/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food, sport: failed
log: food, sport do not pass together; trying halves
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: failed
log: reviews: food bounced: weather: 70.0 % against 90.0 % of the deployed model (−20.0 points)
    on 400 gate examples: worse, where at most 5.0 points may be lost. Try re-learning all
    coefficients instead of only the new ones, more calibration examples, or coefficients per
    row.
notice bounced: reviews: food bounced: weather: 70.0 % against 90.0 % of the deployed model
    (−20.0 points) on 400 gate examples: worse, where at most 5.0 points may be lost. Try
    re-learning all coefficients instead of only the new ones, more calibration examples, or
    coefficients per row.
food/1: merging → rejected: 〃
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
> cars: promoted. 〃
> food: bounced. 〃
> sport: promoted. 〃\
""")


def test_a_merge_that_is_not_finite_is_rejected(deployed):
    deployed.land("food", 90)
    deployed.fails(error=NAN)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
log: reviews: food bounced: loss of food at step 3: expected a finite number, found nan. Lower
    the learning rate.
notice bounced: reviews: food bounced: loss of food at step 3: expected a finite number, found
    nan. Lower the learning rate.
food/1: merging → rejected: 〃
> food: bounced. 〃\
""")


def test_of_two_experts_that_are_not_finite_together_each_is_tried_alone(deployed):
    deployed.land("food", 90)
    deployed.land("sport", 90)
    deployed.fails("food", "sport", error=NAN)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
sport/1: – → waiting
food/1: waiting → merging
sport/1: waiting → merging
log: food, sport do not pass together; trying halves
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
log: reviews: sport bounced: loss of food at step 3: expected a finite number, found nan. Lower
    the learning rate.
notice bounced: reviews: sport bounced: loss of food at step 3: expected a finite number, found
    nan. Lower the learning rate.
sport/1: merging → rejected: 〃
> food: promoted. 〃
> sport: bounced. 〃\
""")


def test_a_merge_that_answers_slowly_is_rejected(deployed):
    deployed.land("food", 90)
    deployed.given.slowness = 2.0
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: failed
log: reviews: food bounced: A prediction takes 2.00 times as long as the deployed model's, where
    1.5 is allowed. Measure on a quiet machine, or look for what slows the model down.
notice bounced: reviews: food bounced: A prediction takes 2.00 times as long as the deployed
    model's, where 1.5 is allowed. Measure on a quiet machine, or look for what slows the model
    down.
food/1: merging → rejected: 〃
> food: bounced. 〃\
""")
