"""What passes the gate, what does not, and that whatever is missing does not."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.errors import InvalidInput
from merging.gate import Check, GatePolicy, GateReport
from merging.gate.decision import TaskScores, decide, judge_expert
from merging.models.outcomes import Outcomes
from tests.merging.gate.chosen_answers import answers, first_right

POLICY = GatePolicy()


def only_check(report, name):
    (check,) = [c for decision in report.tasks for c in decision.checks if c.name == name]
    return check


def test_a_candidate_as_good_as_the_champion_passes(scores):
    report = decide(POLICY, [scores(), scores("tweets", role="new", champion=710)])
    assert report.verdict == "passed"
    assert len(report.reasons) == 4
    decision = report.tasks[0]
    assert decision.difference == pytest.approx(-0.005)
    assert (decision.wins, decision.losses) == (0, 5)
    assert decision.retention == pytest.approx(0.85)
    assert decision.difference_lower > -decision.margin


def test_a_clear_loss_fails_and_says_what_to_try(scores):
    report = decide(POLICY, [scores(candidate=745)])
    assert report.verdict == "failed"
    assert only_check(report, "not-worse").verdict == "failed"
    assert "worse" in report.reasons[0]
    assert "Try" in report.reasons[0]


def test_not_significantly_worse_is_not_a_pass(scores):
    # 2.4 points lost with 12 % discordant: no evidence of a loss beyond 3 points, none against it.
    reference = [i < 700 for i in range(1000)]
    candidate = [i >= 72 if i < 700 else i < 748 for i in range(1000)]
    task = dataclasses.replace(
        scores(base=500), champion=answers(reference), candidate=answers(candidate)
    )
    report = decide(POLICY, [task])
    assert report.verdict == "failed"
    assert report.tasks[0].difference_upper > -0.03 > report.tasks[0].difference_lower


def test_too_few_examples_are_inconclusive_and_the_needed_number_is_said(scores):
    task = scores(base=35, expert=40, candidate=40, champion=40, n=50)
    report = decide(POLICY, [dataclasses.replace(task, base=first_right(20, 50))])
    assert report.verdict == "inconclusive"
    assert "too few" in report.reasons[0]
    assert "100 are needed" in report.reasons[0]


def test_an_undecided_loss_is_inconclusive_while_more_examples_would_decide(scores):
    reference = [i < 200 for i in range(300)]
    candidate = [i >= 20 if i < 200 else i < 218 for i in range(300)]
    task = scores(base=120, expert=220, n=300)
    task = dataclasses.replace(task, champion=answers(reference), candidate=answers(candidate))
    report = decide(POLICY, [task])
    assert report.verdict == "inconclusive"
    assert report.tasks[0].examples_needed > 300
    assert str(report.tasks[0].examples_needed) in report.reasons[0]


def test_slow_erosion_is_caught_by_the_floor_even_when_each_step_is_allowed(scores):
    report = decide(POLICY, [scores(champion=737, candidate=735)])
    assert only_check(report, "not-worse").verdict == "passed"
    assert only_check(report, "retention").verdict == "failed"
    assert report.verdict == "failed"


def test_a_new_task_is_held_to_the_higher_floor(scores):
    assert decide(POLICY, [scores(champion=745, candidate=745)]).verdict == "passed"
    as_new = scores(role="new", champion=705, candidate=745)
    assert decide(POLICY, [as_new]).verdict == "failed"


def test_the_first_model_is_compared_with_the_base(scores):
    report = decide(POLICY, [scores(role="new", champion=None)])
    assert report.verdict == "passed"
    assert report.tasks[0].reference == "base"
    assert report.tasks[0].champion is None


def test_an_expert_that_gains_nothing_cannot_pass(scores):
    report = decide(POLICY, [scores(role="new", base=700, expert=690, candidate=760)])
    assert report.verdict == "failed"
    assert "fine-tuning brought nothing" in report.reasons[0]
    assert report.tasks[0].retention is None


def test_an_expert_no_better_than_a_constant_is_not_worth_merging():
    # Chance is 20 %: the head of shuffled labels may do worse than that in the base.
    check = judge_expert(POLICY, "reviews", first_right(150), first_right(200))
    assert (check.name, check.verdict) == ("expert-skill", "failed")
    assert "commonest answer" in check.sentence
    lucky = judge_expert(POLICY, "reviews", first_right(150), first_right(205))
    assert lucky.verdict == "inconclusive"
    assert judge_expert(POLICY, "reviews", first_right(150), first_right(400)).verdict == "passed"


def test_an_expert_can_be_judged_before_anything_is_merged():
    base = first_right(700)
    assert judge_expert(POLICY, "reviews", base, first_right(800)).verdict == "passed"
    assert judge_expert(POLICY, "reviews", base, first_right(700)).verdict == "failed"
    noisy = answers([i >= 40 if i < 700 else i < 745 for i in range(1000)])
    check = judge_expert(POLICY, "reviews", base, noisy)
    assert check.verdict == "inconclusive"
    assert "gate examples" in check.sentence
    assert judge_expert(POLICY, "reviews", base, first_right(80, 100)).verdict == "failed"


def test_a_deployed_task_is_not_asked_again_to_prove_its_gain(scores):
    noisy = answers([i >= 40 if i < 700 else i < 745 for i in range(1000)])
    task = dataclasses.replace(scores(champion=704, candidate=704), expert=noisy)
    assert decide(POLICY, [task]).verdict == "passed"
    assert decide(POLICY, [dataclasses.replace(task, role="new")]).verdict == "inconclusive"


def test_one_failed_task_fails_the_candidate(scores):
    report = decide(POLICY, [scores(), scores("tweets", candidate=700)])
    assert [decision.verdict for decision in report.tasks] == ["passed", "failed"]
    assert report.verdict == "failed"


def test_negative_flips_are_listed_by_key_even_on_a_pass(scores):
    report = decide(POLICY, [scores()])
    assert report.verdict == "passed"
    assert report.tasks[0].negative_flips == tuple(f"key-{i:05d}" for i in range(785, 790))


def test_no_task_at_all_fails():
    report = decide(POLICY, [])
    assert report.verdict == "failed"
    assert "No task was scored" in report.reasons[0]


def test_the_same_task_twice_fails(scores):
    assert decide(POLICY, [scores(), scores()]).verdict == "failed"


def test_an_old_task_without_the_champions_answers_fails(scores):
    report = decide(POLICY, [scores(champion=None)])
    assert report.verdict == "failed"
    assert "deployed model was not scored" in report.reasons[0]


@pytest.mark.parametrize("model", ["base", "expert", "champion"])
def test_answers_on_other_examples_fail(scores, model):
    good = scores()
    outcomes = getattr(good, model)
    shuffled = outcomes.take([1, 0, *range(2, len(outcomes))])
    report = decide(POLICY, [dataclasses.replace(good, **{model: shuffled})])
    assert report.verdict == "failed"
    assert "other gate examples" in report.reasons[0]


def test_other_targets_on_the_same_keys_fail(scores):
    good = scores()
    other = Outcomes(good.base.keys, good.base.predicted, (0,) * 1000)
    assert decide(POLICY, [dataclasses.replace(good, base=other)]).verdict == "failed"


def test_gate_examples_that_were_learned_from_fail(scores):
    task = dataclasses.replace(scores(), calibration=frozenset({"key-00007", "elsewhere"}))
    report = decide(POLICY, [task])
    assert report.verdict == "failed"
    assert "also learned from" in report.reasons[0]


def test_no_gate_examples_fail():
    empty = Outcomes((), (), ())
    task = TaskScores("reviews", "new", empty, empty, empty, None, frozenset())
    assert decide(POLICY, [task]).verdict == "failed"


def test_each_attempt_of_a_ladder_is_judged_more_strictly(scores):
    once, thrice = decide(POLICY, [scores()]), decide(POLICY, [scores()], rungs=3)
    assert thrice.tasks[0].confidence == pytest.approx(1 - 0.05 / 3)
    assert thrice.tasks[0].difference_lower < once.tasks[0].difference_lower


def test_a_task_can_have_its_own_margin_and_floor(scores):
    policy = GatePolicy(tasks={"tweets": {"margin": 0.2, "retention_floor_old": 0.1}})
    report = decide(policy, [scores(), scores("tweets", candidate=720, base=650)])
    assert report.verdict == "passed"


def test_the_bound_of_retention_can_be_required(scores):
    task = scores(role="new", champion=700, candidate=752)
    assert decide(POLICY, [task]).verdict == "passed"
    report = decide(GatePolicy(retention_evidence="bound"), [task])
    assert report.verdict == "inconclusive"


def test_a_report_survives_json(scores):
    report = decide(POLICY, [scores(), scores("tweets", candidate=600)])
    assert GateReport.from_json(report.to_json()) == report


def test_a_report_of_version_0_1_is_read(scores):
    report = decide(POLICY, [scores()], rungs=2)
    earlier = report.to_json().replace('"rungs": 2', '"attempts": 2')
    assert GateReport.from_json(earlier) == report


@pytest.mark.parametrize(
    "change",
    [
        ('"verdict": "failed"', '"verdict": "passed"'),
        ('"wins": 0', '"wins": NaN'),
        ('"margin": 0.03', '"margin": NaN'),
        ('"rungs": 1', '"rungs": 1, "unknown": 1'),
    ],
)
def test_a_report_that_was_tampered_with_is_refused(scores, change):
    text = decide(POLICY, [scores(candidate=600)]).to_json()
    assert change[0] in text
    with pytest.raises(InvalidInput):
        GateReport.from_json(text.replace(*change, 1))


def test_the_table_has_a_flat_row_per_task(scores):
    rows = decide(POLICY, [scores(), scores("tweets")]).rows()
    assert [row["task"] for row in rows] == ["reviews", "tweets"]
    assert rows[0]["champion"] == pytest.approx(0.79)
    assert not any(isinstance(value, dict | tuple) for value in rows[0].values())


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_any_answers_give_a_report_that_survives_json(table):
    base, expert, candidate = (answers(list(column)) for column in zip(*table, strict=True))
    task = TaskScores("t", "new", base, expert, candidate, None, frozenset())
    report = decide(POLICY, [task])
    assert report.verdict != "passed"  # fewer than the minimum number of examples
    assert GateReport.from_json(report.to_json()) == report


def test_a_broken_artifact_fails_whatever_it_answers(scores):
    broken = Check(name="candidate", verdict="failed", sentence="Weights are not finite.")
    report = decide(POLICY, [scores()], checks=[broken])
    assert report.verdict == "failed"
    assert report.reasons == ("Weights are not finite.",)
    assert GateReport.from_json(report.to_json()) == report


def test_a_sound_artifact_alone_passes_nothing():
    sound = Check(name="candidate", verdict="passed", sentence="Every weight is finite.")
    assert decide(POLICY, [], checks=[sound]).verdict == "failed"


def test_worn_gate_examples_are_a_warning(scores):
    policy = GatePolicy(decision_budget=10)
    assert decide(policy, [dataclasses.replace(scores(), earlier_decisions=9)]).warnings == ()
    report = decide(policy, [dataclasses.replace(scores(), earlier_decisions=10)])
    assert report.verdict == "passed"
    assert "decision 11 on the same gate examples" in report.warnings[0]


def test_a_report_can_be_overruled_and_still_survives_json(scores):
    report = decide(POLICY, [scores()]).overruled(["Its table has no row for tweets."])
    assert report.verdict == "failed"
    assert report.reasons == ("Its table has no row for tweets.",)
    assert GateReport.from_json(report.to_json()) == report
