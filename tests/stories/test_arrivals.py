"""Experts arrive: what is merged, what is refused and what is put aside, and how people hear of it."""

from __future__ import annotations

from inline_snapshot import snapshot


def test_a_good_expert_is_merged_and_promoted(queue):
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


def test_a_second_expert_joins_what_is_deployed(deployed):
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
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
> food: promoted. 〃\
""")


def test_an_adapter_is_merged_as_an_expert_is_and_others_join_it(queue):
    queue.land("food", 90, adapter=True)
    assert queue.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 1: – → candidate
champion is version 1
version 1: candidate → promoted: Merges food; the gate passed on every task.
food/1: merging → merged: Merged in version 1.
notice promoted: reviews version 1 is deployed: 〃
log: reviews version 1 is deployed: 〃
> food: promoted. 〃\
""")
    queue.land("sport", 85)
    assert queue.sweep() == snapshot("""\
sport/1: – → waiting
sport/1: waiting → merging
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
> sport: promoted. 〃\
""")


def test_experts_that_arrive_together_are_merged_together(deployed):
    deployed.land("food", 90)
    deployed.land("sport", 85)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
sport/1: – → waiting
food/1: waiting → merging
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food, sport: passed
version 2: – → candidate
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges food, sport; the gate passed on every task.
food/1: merging → merged: Merged in version 2.
sport/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
> food, sport: promoted. 〃\
""")


def test_nothing_waits(deployed):
    assert deployed.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")


def test_the_same_content_is_merged_already(deployed):
    deployed.land("weather", 90)
    assert deployed.sweep() == snapshot("""\
weather/2: – → waiting
weather/2: waiting → merged: Same content as reviews-weather/1, which is deployed.
> No expert is waiting.\
""")
    assert deployed.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")


def test_a_new_version_of_a_task_replaces_the_old(deployed):
    deployed.land("weather", 94, seed=1)
    assert deployed.sweep() == snapshot("""\
weather/2: – → waiting
weather/2: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of weather: passed
version 2: – → candidate
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges weather; the gate passed on every task.
weather/1: merged → held: Replaced by reviews-weather/2.
weather/2: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
> weather: promoted. 〃\
""")


def test_an_older_version_that_had_no_turn_is_held(queue):
    queue.land("weather", 90)
    queue.land("weather", 94, seed=1)
    assert queue.sweep() == snapshot("""\
weather/1: – → waiting
weather/2: – → waiting
weather/1: waiting → held: reviews-weather/2 was registered later for the same task.
weather/2: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of weather: passed
version 1: – → candidate
champion is version 1
version 1: candidate → promoted: Merges weather; the gate passed on every task.
weather/2: merging → merged: Merged in version 1.
notice promoted: reviews version 1 is deployed: 〃
log: reviews version 1 is deployed: 〃
> weather: promoted. 〃\
""")


def test_a_merge_that_forgets_is_rejected_and_nothing_changes(deployed):
    deployed.land("food", 90)
    deployed.scores("food", weather=80)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: failed
log: reviews: food bounced: weather: 80.0 % against 90.0 % of the deployed model (−10.0 points)
    on 400 gate examples: worse, where at most 5.0 points may be lost. Try re-learning all
    coefficients instead of only the new ones, more calibration examples, or coefficients per
    row.
notice bounced: reviews: food bounced: weather: 80.0 % against 90.0 % of the deployed model
    (−10.0 points) on 400 gate examples: worse, where at most 5.0 points may be lost. Try
    re-learning all coefficients instead of only the new ones, more calibration examples, or
    coefficients per row.
food/1: merging → rejected: 〃
> food: bounced. 〃\
""")
    assert deployed.types("explain reviews-food/1") == snapshot("""\
> reviews-food/1 (food): rejected
> weather: 80.0 % against 90.0 % of the deployed model (−10.0 points) on 400 gate examples:
    worse, where at most 5.0 points may be lost. Try re-learning all coefficients instead of
    only the new ones, more calibration examples, or coefficients per row.
> Report: MLFLOW/#/experiments/1/runs/ID/artifacts\
""")
    assert deployed.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")


def test_a_rejected_expert_is_released_and_tried_again(deployed):
    deployed.land("food", 49)
    deployed.sweep()
    assert deployed.types("release reviews-food/1") == snapshot("""\
food/1: rejected → waiting: Released.
> reviews-food/1 is waiting again; the next merge takes it.\
""")
    assert deployed.types("release reviews-food/1") == snapshot("""\
> reviews-food/1 is waiting; only a held, rejected or withdrawn one can be released. `supermerge
    status` shows what waits.\
""")
    assert deployed.sweep() == snapshot("""\
log: reviews: food bounced: Nothing was merged. food: the expert scores 49.0 % where the base
    with the expert's own head scores 50.0 % (−1.0 points): fine-tuning brought nothing that a
    merge could keep. Check the labels of its examples and its training, then register a better
    expert.
notice bounced: reviews: food bounced: Nothing was merged. food: the expert scores 49.0 % where
    the base with the expert's own head scores 50.0 % (−1.0 points): fine-tuning brought nothing
    that a merge could keep. Check the labels of its examples and its training, then register a
    better expert.
food/1: waiting → rejected: 〃
> food: bounced. 〃\
""")
