"""The decision: from what every model answered to one verdict.

Every task has to pass on its own, so no correction for the number of tasks is needed (an
intersection-union test), and whatever is missing or cannot be shown does not pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from merging.gate.checks import check_gain, check_not_worse, check_retention, check_skill
from merging.gate.comparison import compare, measure_retention
from merging.gate.policy import GatePolicy
from merging.gate.report import (
    Check,
    GateReport,
    Role,
    Score,
    TaskDecision,
    Verdict,
    overall,
    worst,
)
from merging.gate.statistics import Interval
from merging.models.outcomes import Outcomes, commonest_answer


@dataclass(frozen=True)
class TaskScores:
    """Everything the gate needs for one task.

    Attributes:
        task: Name of the ML task.
        role: `old` when the deployed model already holds it, else `new`.
        base, expert, candidate, champion: Answers on the same gate examples in the same order; the
            base and the champion with this task's head. No champion: nothing is deployed yet.
        calibration: Keys of the task's calibration examples.
        earlier_decisions: Decisions taken on exactly these gate examples before.
    """

    task: str
    role: Role
    base: Outcomes
    expert: Outcomes
    candidate: Outcomes
    champion: Outcomes | None
    calibration: frozenset[str] = field(repr=False)
    earlier_decisions: int = 0


def decide(
    policy: GatePolicy,
    scores: Sequence[TaskScores],
    *,
    rungs: int = 1,
    checks: Sequence[Check] = (),
) -> GateReport:
    """Decides on one candidate.

    Args:
        policy: Of the family.
        scores: One entry per task, old and new.
        rungs: How many candidates may be judged on these gate examples for one arrival, one for
            each rung of the ladder. Each bound gets 1/rungs of the error rate (Bonferroni), so that
            trying again does not make a wrong promotion likelier.
        checks: What was found about the candidate's files (`merging.gate.artifact`).
    """
    confidence = _shared_confidence(policy, rungs)
    repeated = {task for task, count in Counter(s.task for s in scores).items() if count > 1}
    decisions = tuple(
        _decide_task(policy, s, confidence)
        if not (fault := _fault(s, s.task in repeated))
        else _undecidable(policy, s, confidence, fault)
        for s in scores
    )
    verdict = overall(decisions, checks)
    return GateReport(
        verdict=verdict,
        tasks=decisions,
        reasons=_reasons(verdict, decisions, checks),
        policy=policy.model_dump(mode="json"),
        rungs=rungs,
        checks=tuple(checks),
        warnings=_warnings(policy, scores),
    )


def judge_expert(
    policy: GatePolicy, task: str, base: Outcomes, expert: Outcomes, *, rungs: int = 1
) -> Check:
    """Whether an expert is worth merging: better than the base with its head, and than a constant.

    Needs no merged model, so it can bounce an expert before anything is learned. Give the same
    `rungs` as to `decide`, so that what passes here passes there.
    """
    fault = _fault_of_answers({"base": base, "expert": expert})
    if fault:
        return Check(name="evidence", verdict="failed", sentence=f"{task}: {fault}")
    confidence = _shared_confidence(policy, rungs)
    metric = policy.for_task(task).metric
    gain = check_gain(task, "new", compare(metric, expert, base, confidence))
    skill = check_skill(task, compare(metric, expert, commonest_answer(expert), confidence))
    return gain if gain.verdict == worst(gain.verdict, skill.verdict) else skill


def _shared_confidence(policy: GatePolicy, rungs: int) -> float:
    if rungs < 1:
        raise ValueError(f"rungs is a count from 1, not {rungs}")
    return 1 - (1 - policy.confidence) / rungs


def _decide_task(policy: GatePolicy, scores: TaskScores, confidence: float) -> TaskDecision:
    rule = policy.for_task(scores.task)
    name: Literal["champion", "base"] = "base" if scores.champion is None else "champion"
    reference = scores.base if scores.champion is None else scores.champion
    candidate = compare(rule.metric, scores.candidate, reference, confidence)
    expert = compare(rule.metric, scores.expert, scores.base, confidence)
    gain = expert.difference.estimate
    kept = candidate.score.estimate - expert.reference_score.estimate
    bounds = measure_retention(
        rule.metric, scores.base, scores.expert, scores.candidate, confidence
    )
    floor = rule.retention_floor(scores.role)
    constant = compare(rule.metric, scores.expert, commonest_answer(scores.expert), confidence)
    checks = (
        *([check_skill(scores.task, constant)] if scores.role == "new" else []),
        check_gain(scores.task, scores.role, expert),
        check_not_worse(scores.task, name, candidate, rule),
        check_retention(scores.task, kept, expert, bounds, floor, policy),
    )
    return TaskDecision(
        task=scores.task,
        role=scores.role,
        metric=rule.metric,
        verdict=worst(*(check.verdict for check in checks)),
        examples=candidate.examples,
        examples_needed=candidate.examples_needed(rule.margin),
        base=_score(expert.reference_score),
        champion=_score(candidate.reference_score) if name == "champion" else None,
        candidate=_score(candidate.score),
        expert=_score(expert.score),
        reference=name,
        wins=candidate.wins,
        losses=candidate.losses,
        difference=candidate.difference.estimate,
        difference_lower=candidate.difference.lower,
        difference_upper=candidate.difference.upper,
        margin=rule.margin,
        gain=gain,
        gain_lower=expert.difference.lower,
        retention=kept / gain if gain > 0 else None,
        retention_lower=bounds.lower if bounds else None,
        retention_upper=bounds.upper if bounds else None,
        retention_floor=floor,
        confidence=confidence,
        checks=checks,
        negative_flips=_negative_flips(scores.candidate, reference),
    )


def _undecidable(
    policy: GatePolicy, scores: TaskScores, confidence: float, fault: str
) -> TaskDecision:
    rule = policy.for_task(scores.task)
    check = Check(name="evidence", verdict="failed", sentence=f"{scores.task}: {fault}")
    return TaskDecision(
        task=scores.task,
        role=scores.role,
        metric=rule.metric,
        verdict="failed",
        examples=len(scores.candidate),
        margin=rule.margin,
        retention_floor=rule.retention_floor(scores.role),
        confidence=confidence,
        checks=(check,),
    )


def _fault(scores: TaskScores, repeated: bool) -> str | None:
    """Why the scores cannot be used, as a sentence; None when they can."""
    if repeated:
        return "it was scored more than once. Score every task once."
    answers = {"candidate": scores.candidate, "base": scores.base, "expert": scores.expert}
    if scores.champion is not None:
        answers["champion"] = scores.champion
    elif scores.role == "old":
        return (
            "it is deployed, but the deployed model was not scored on it. "
            "Evaluate the champion on this task and decide again."
        )
    if fault := _fault_of_answers(answers):
        return fault
    overlap = scores.calibration.intersection(scores.candidate.keys)
    if overlap:
        return (
            f"{len(overlap)} of its {len(scores.candidate)} gate examples were also learned from "
            f"(for example {min(overlap)[:16]}), so they prove nothing. "
            "Split the examples table again so that no row is on both sides."
        )
    return None


def _fault_of_answers(answers: Mapping[str, Outcomes]) -> str | None:
    one, first = next(iter(answers.items()))
    if not len(first):
        return "it has no gate examples. Add labelled examples to its table."
    for name, outcomes in answers.items():
        if outcomes.keys != first.keys or outcomes.targets != first.targets:
            return (
                f"the {name} was scored on other gate examples than the {one}. "
                "Evaluate every model again on the same examples."
            )
    return None


def _negative_flips(candidate: Outcomes, reference: Outcomes) -> tuple[str, ...]:
    flipped = reference.correct & ~candidate.correct
    return tuple(key for key, flip in zip(reference.keys, flipped, strict=True) if flip)


def _score(interval: Interval) -> Score:
    return Score(value=interval.estimate, lower=interval.lower, upper=interval.upper)


def _reasons(
    verdict: Verdict, decisions: Sequence[TaskDecision], whole: Sequence[Check]
) -> tuple[str, ...]:
    if not decisions:
        return ("No task was scored, so nothing is shown. Evaluate the candidate on every task.",)
    checks = [*whole, *(check for decision in decisions for check in decision.checks)]
    if verdict == "passed":
        shown = ("not-worse", "retention")
        return tuple(check.sentence for check in checks if check.name in shown)
    return tuple(
        check.sentence
        for wanted in ("failed", "inconclusive")
        for check in checks
        if check.verdict == wanted
    )


def _warnings(policy: GatePolicy, scores: Sequence[TaskScores]) -> tuple[str, ...]:
    return tuple(
        f"{s.task}: this is decision {s.earlier_decisions + 1} on the same gate examples, where "
        f"{policy.decision_budget} are budgeted. By now candidates may have been chosen for what "
        "suits these examples. Register the next expert of this task with fresh gate examples."
        for s in scores
        if s.earlier_decisions >= policy.decision_budget
    )
