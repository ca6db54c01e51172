"""A task is taken out: of the line, of a candidate, of the deployed model."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot
from mlflow import MlflowClient

from tests.stories.world import FAMILY


def tasks(queue) -> tuple[str, ...]:
    """What the deployed model answers."""
    folders = {path.split("/")[1] for path in queue.files() if path.startswith("heads/")}
    return tuple(sorted(folders))


def test_a_withdrawn_expert_leaves_the_deployed_model(two):
    assert two.types("withdraw reviews-food/1 --reason 'Bad labels.'") == snapshot("""\
> reviews-food/1 is deployed; the next merge builds a candidate without it, which has to pass on
    the tasks that stay.\
""")
    assert two.sweep() == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of the others without food: passed
version 3: – → candidate
champion is version 3
previous is version 2
version 2: promoted → superseded: Followed by version 3 (promotion 3).
version 3: candidate → promoted: Merges the others without food; the gate passed on every task.
    Withdrawn by ada: Bad labels.
food/1: merged → withdrawn: Withdrawn by ada: Bad labels.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> food: promoted. 〃\
""")
    assert tasks(two) == ("weather",)
    assert two.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")
    two.types("release reviews-food/1")
    assert "food: promoted" in two.sweep()
    assert tasks(two) == ("food", "weather")


def test_what_is_taken_out_comes_back_with_a_rollback_and_stays(two):
    two.types("withdraw reviews-food/1")
    two.sweep()
    assert two.types("rollback reviews") == snapshot("""\
champion is version 2
previous is version 1
version 2: superseded → promoted: Rolled back from version 3.
version 3: promoted → rolled-back: Rolled back by version 2 (promotion 4).
food/1: withdrawn → merged: Merged in version 2.
notice rolled-back: reviews is back at version 2: Rolled back from version 3.
> Version 2 is deployed (promotion 4).\
""")
    two.sweep()
    assert tasks(two) == ("food", "weather")


def costs_something(two) -> None:
    """A third task is deployed, and without `food` the model would forget something."""
    two.land("sport", 90)
    two.sweep()
    two.scores("weather", "sport", weather=70)


@pytest.mark.parametrize("how", ["tag", "deleted"])
def test_a_tag_or_a_version_deleted_in_mlflow_does_the_same(two, how):
    if how == "tag":
        two.tag("reviews-food", 1, "merge.withdraw", " True")
    else:
        two.delete("reviews-food/1")
    assert "promoted" in two.sweep()
    assert tasks(two) == ("weather",)
    assert "No expert is waiting" in two.sweep()


def test_where_mlflow_lost_the_deployed_version_too_nothing_is_taken_out(two):
    for ref in ("reviews-food/1", f"{FAMILY}/2"):
        two.delete(ref)
    two.sweep()
    assert two.queue.promotions.newest().version == 2


def test_what_was_rolled_back_to_is_not_taken_out_for_a_deleted_version(two):
    two.delete("reviews-weather/1")
    two.types("rollback reviews")
    two.sweep()
    assert tasks(two) == ("weather",)


def test_a_withdrawal_and_an_arrival_are_one_merge(two):
    two.types("withdraw reviews-food/1 --reason 'Bad labels.'")
    two.land("sport", 90)
    assert two.sweep() == snapshot("""\
sport/1: – → waiting
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport without food: passed
version 3: – → candidate
champion is version 3
previous is version 2
version 2: promoted → superseded: Followed by version 3 (promotion 3).
version 3: candidate → promoted: Merges sport without food; the gate passed on every task.
    Withdrawn by ada: Bad labels.
food/1: merged → withdrawn: Withdrawn by ada: Bad labels.
sport/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> sport, food: promoted. 〃\
""")
    assert tasks(two) == ("sport", "weather")


def test_the_only_task_stays(deployed):
    deployed.types("withdraw reviews-weather/1")
    assert deployed.sweep() == snapshot("""\
log: reviews: weather bounced: Without it the deployed model would hold no task at all. Register
    the expert of another task first, or roll back.
notice bounced: reviews: weather bounced: Without it the deployed model would hold no task at
    all. Register the expert of another task first, or roll back.
weather/1 (merged): 〃
> weather: bounced. 〃\
""")
    assert deployed.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")


def test_a_withdrawal_that_costs_the_other_tasks_something_goes_to_a_person(two):
    costs_something(two)
    two.types("withdraw reviews-food/1 --reason 'Bad labels.'")
    assert two.sweep() == snapshot("""\
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of the others without food: failed
version 4: – → candidate
notice needs-review: reviews version 4 needs review: Withdrawn by ada: Bad labels. weather: 70.0
    % against 90.0 % of the deployed model (−20.0 points) on 400 gate examples: worse, where at
    most 5.0 points may be lost. Try re-learning all coefficients instead of only the new ones,
    more calibration examples, or coefficients per row.
food/1 (merged): Waits for review of version 4: set its tag approval_status to approved or
    rejected.
> food: waits for review. 〃\
""")
    assert two.types("approve reviews 4") == snapshot("""\
log: reviews version 4: Refused: the gate's verdict is failed, so an approval needs a reason.
    Approve it again: supermerge approve reviews 4 --reason …, or in MLflow the tag
    merge.review-reason and then approval_status.
version 4 reads in review: Refused: the gate's verdict is failed, so an approval needs a reason.
    Approve it again: supermerge approve reviews 4 --reason …, or in MLflow the tag
    merge.review-reason and then approval_status.
> 〃\
""")
    assert two.types("approve reviews 4 --reason 'It has to go.'") == snapshot("""\
champion is version 4
previous is version 3
version 3: promoted → superseded: Followed by version 4 (promotion 4).
version 4: candidate → promoted: It has to go.
food/1: merged → withdrawn: Withdrawn by ada: Bad labels.
notice promoted: reviews version 4 is deployed: It has to go.
log: reviews version 4 is deployed: It has to go.
version 4 reads in review: Promoted (4) at TIME UTC, decided by ada.
> 〃\
""")
    assert tasks(two) == ("sport", "weather")


@pytest.mark.parametrize("how", ["tag", "deleted"])
def test_a_withdrawal_that_a_person_rejects_is_not_asked_for_again(two, how):
    costs_something(two)
    if how == "tag":
        two.tag("reviews-food", 1, "merge.withdraw", "true")
    else:
        two.delete("reviews-food/1")
    two.sweep()
    two.types("reject reviews 4 --reason 'We need it.'")
    assert "No expert is waiting" in two.sweep()
    assert tasks(two) == ("food", "sport", "weather")
    if how == "tag":
        assert two.queue.registry.experts.get("reviews-food", 1).reason.endswith("We need it.")


def test_a_withdrawal_can_be_taken_back(two):
    costs_something(two)
    two.types("withdraw reviews-food/1")
    two.sweep()
    assert two.types("release reviews-food/1") == snapshot("""\
food/1 (merged): The request to take it out was taken back.
> reviews-food/1 stays.\
""")
    assert two.sweep() == snapshot("""\
version 4: candidate → superseded: reviews-food/1, which it takes out, is not withdrawn any
    more.
log: no expert is waiting
> No expert is waiting.\
""")


def test_an_expert_that_waits_is_withdrawn_at_once(deployed):
    deployed.land("food", 90)
    assert deployed.types("withdraw reviews-food/1 --reason 'Wrong file'") == snapshot("""\
food/1: – → waiting
food/1: waiting → withdrawn: Withdrawn by ada: Wrong file.
> reviews-food/1 is withdrawn.\
""")
    assert deployed.sweep() == snapshot("""\
log: no expert is waiting
> No expert is waiting.\
""")
    deployed.land("sport", 90)
    deployed.tag("reviews-sport", 1, "merge.withdraw", "true")
    assert deployed.sweep() == snapshot("""\
sport/1: – → waiting
sport/1: waiting → withdrawn: Withdrawn by a person, by merge.withdraw in MLflow.
log: no expert is waiting
> No expert is waiting.\
""")


@pytest.mark.parametrize("how", ["command", "deleted"])
def test_an_expert_withdrawn_while_it_is_merged_is_left_out(deployed, how):
    deployed.land("food", 90)
    deployed.land("sport", 90)

    def at(task: str) -> None:
        if task == "judge":
            deployed.watch.before_task = str
            if how == "command":
                deployed.types("withdraw reviews-food/1")
            else:
                deployed.delete("reviews-food/1")

    deployed.watch.before_task = at
    deployed.sweep()
    assert tasks(deployed) == ("sport", "weather")


def test_what_is_put_aside_can_be_withdrawn(two):
    two.tag("reviews-sport", two.land("sport", 49).version, "merge.withdraw", "false")
    two.sweep()
    two.types("rollback reviews")
    two.types("withdraw reviews-food/1")
    two.types("withdraw reviews-sport/1")
    assert "No expert is waiting" in two.sweep()


@pytest.mark.family(promotion="review")
def test_a_candidate_of_a_deleted_expert_cannot_be_approved(candidate):
    candidate.delete("reviews-food/1")
    candidate.tag(FAMILY, 2, "approval_status", "approved")
    candidate.sweep()
    assert MlflowClient().get_model_version(FAMILY, "2").tags["merge.status"] == "superseded"
    assert candidate.queue.promotions.newest().version == 1


@pytest.mark.family(promotion="review")
def test_a_candidate_of_a_withdrawn_expert_is_superseded(candidate):
    candidate.types("withdraw reviews-food/1 --reason 'Wrong file.'")
    assert candidate.sweep() == snapshot("""\
version 2: candidate → superseded: reviews-food/1 is new in it. Withdrawn by ada: Wrong file.
log: no expert is waiting
> No expert is waiting.\
""")
