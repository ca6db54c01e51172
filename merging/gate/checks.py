"""The conditions of the gate, each with a verdict and a sentence that ends with what to try."""

from __future__ import annotations

from typing import Literal

from merging.gate.comparison import Comparison
from merging.gate.policy import GatePolicy, TaskPolicy
from merging.gate.report import Check, Role, Verdict
from merging.gate.statistics import Interval, fewest_examples

_TRY_MERGING = (
    "Try re-learning all coefficients instead of only the new ones, more calibration examples, "
    "or coefficients per row."
)


def check_skill(task: str, constant: Comparison) -> Check:
    """Whether an arriving expert is better than always giving the commonest answer.

    An expert of shuffled labels and its head fit each other badly in the base, so it may well beat
    the base by chance; it does not beat a constant.

    Args:
        task: Name of the ML task.
        constant: The expert against the commonest right answer, given to every example.
    """
    measured = (
        f"{task}: the expert scores {percent(constant.score.estimate)} where the commonest answer, "
        f"given every time, scores {percent(constant.reference_score.estimate)}"
    )
    if constant.difference.lower > 0:
        return Check(name="expert-skill", verdict="passed", sentence=f"{measured}.")
    verdict: Verdict = "failed" if constant.difference.estimate <= 0 else "inconclusive"
    rest = (
        f"; with {percent(constant.confidence)} confidence it is not shown to be better than that. "
        "Check the labels of its examples and its training, then register a better expert."
    )
    return Check(name="expert-skill", verdict=verdict, sentence=measured + rest)


def check_gain(task: str, role: Role, expert: Comparison) -> Check:
    """Whether the expert itself is better than the base with the expert's own head.

    A deployed task had to show that when it arrived; a stricter policy since then must not let it
    block every later candidate, so for it a measured gain is enough.
    """
    gain = expert.difference
    measured = (
        f"{task}: the expert scores {percent(expert.score.estimate)} where the base with the "
        f"expert's own head scores {percent(expert.reference_score.estimate)} "
        f"({points(gain.estimate)} points)"
    )
    verdict: Verdict
    if gain.estimate <= 0:
        verdict, rest = (
            "failed",
            ": fine-tuning brought nothing that a merge could keep. Check the labels of its "
            "examples and its training, then register a better expert.",
        )
    elif gain.lower > 0:
        verdict, rest = "passed", f", a real gain at {percent(expert.confidence)} confidence."
    elif role == "old":
        verdict, rest = "passed", ", which is enough for a task that is deployed."
    else:
        needed = expert.examples_needed(gain.estimate)
        more = f"Give about {needed:,} gate examples, or train" if needed < 20_000 else "Train"
        verdict, rest = (
            "inconclusive",
            f", which {expert.examples} gate examples cannot tell from no gain at all. "
            f"{more} an expert that gains more.",
        )
    return Check(name="expert-gain", verdict=verdict, sentence=measured + rest)


def check_not_worse(
    task: str, reference: Literal["champion", "base"], candidate: Comparison, rule: TaskPolicy
) -> Check:
    """Whether the candidate is shown to lose less than the margin against its reference."""
    difference, n = candidate.difference, candidate.examples
    deployed = "the deployed model" if reference == "champion" else "the base"
    measured = (
        f"{task}: {percent(candidate.score.estimate)} against "
        f"{percent(candidate.reference_score.estimate)} of {deployed} "
        f"({points(difference.estimate)} points) on {n} gate examples"
    )
    allowed = f"{100 * rule.margin:.1f} points may be lost"
    sure = f"with {percent(candidate.confidence)} confidence"
    largest_loss = f"{max(-100 * difference.lower, 0.0):.1f} points"
    fewest = max(rule.minimum_examples, fewest_examples(rule.margin, candidate.confidence))
    needed = max(candidate.examples_needed(rule.margin), fewest)

    verdict: Verdict
    if difference.upper < -rule.margin:
        verdict, rest = "failed", f": worse, where at most {allowed}. {_TRY_MERGING}"
    elif n < fewest:
        verdict, rest = (
            "inconclusive",
            f": too few to decide where {allowed}. At least {fewest} are needed, and about "
            f"{needed} at this rate of disagreement. Add gate examples or widen the margin.",
        )
    elif difference.lower >= 0:
        verdict, rest = "passed", f"; {sure} it is not worse at all."
    elif difference.lower > -rule.margin:
        verdict, rest = "passed", f"; {sure} it loses less than {largest_loss}, and {allowed}."
    elif n < needed:
        verdict, rest = (
            "inconclusive",
            f"; {sure} the loss is only known to be below {largest_loss}, where {allowed}. About "
            f"{needed} gate examples would decide it. Add gate examples or widen the margin.",
        )
    else:
        verdict, rest = (
            "failed",
            f"; {sure} the loss is only known to be below {largest_loss}, where {allowed}. "
            f"{_TRY_MERGING}",
        )
    return Check(name="not-worse", verdict=verdict, sentence=measured + rest)


def check_retention(
    task: str,
    kept: float,
    expert: Comparison,
    bounds: Interval | None,
    floor: float,
    policy: GatePolicy,
) -> Check:
    """Whether the candidate keeps enough of what the task's own expert gained over the base."""
    gain = expert.difference.estimate
    if gain <= 0:
        return Check(
            name="retention",
            verdict="failed",
            sentence=f"{task}: retention cannot be measured, because the expert itself gains "
            "nothing over the base. Register a better expert.",
        )
    measured = (
        f"{task}: keeps {percent(kept / gain)} of its expert's gain ({points(kept)} of "
        f"{points(gain)} points), where {percent(floor)} must stay"
    )
    if kept / gain < floor:
        return Check(name="retention", verdict="failed", sentence=f"{measured}. {_TRY_MERGING}")
    if policy.retention_evidence == "bound" and (bounds is None or bounds.lower <= floor):
        shown = f"{percent(bounds.lower)} is" if bounds else "nothing is"
        return Check(
            name="retention",
            verdict="inconclusive",
            sentence=f"{measured}; with {percent(expert.confidence)} confidence only {shown} sure. "
            "Add gate examples, or let the policy judge the estimate.",
        )
    return Check(name="retention", verdict="passed", sentence=f"{measured}.")


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f} %".replace("-", "−")


def points(share: float) -> str:
    """A difference of shares in signed percentage points."""
    return f"{100 * share:+.1f}".replace("-", "−") if abs(share) >= 5e-4 else "0.0"
