"""What the gate found and decided: plain values that survive a round trip through JSON.

Numbers are finite or None (not available); a NaN is refused when the value is built.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from merging.errors import InvalidInput

Verdict = Literal["passed", "failed", "inconclusive"]
Role = Literal["old", "new"]
Metric = Literal["accuracy", "macro-f1", "exact-match", "token-f1"]
Finite = Annotated[float, AllowInfNan(False)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Value):
    """A model's score on one task, a share, with its one-sided bounds."""

    value: Finite
    lower: Finite
    upper: Finite


class Check(_Value):
    """One condition of the gate: what it found, and a sentence that says so and what to try."""

    name: Literal["evidence", "expert-skill", "expert-gain", "not-worse", "retention", "candidate"]
    verdict: Verdict
    sentence: str


class TaskDecision(_Value):
    """Every number that decided one task.

    Attributes:
        task: Name of the ML task.
        role: `old` when the deployed model already holds it, else `new`.
        metric: What the scores measure.
        verdict: The worst of the checks.
        examples: Gate examples of the task.
        examples_needed: To decide at this margin and discordance; None when it cannot be said.
        base, champion, candidate, expert: Scores, a share; None when there is no such model.
        reference: Whom the candidate must not be worse than.
        wins, losses: Examples that only the candidate / only the reference has right.
        difference, difference_lower, difference_upper: candidate − reference with bounds, shares.
        margin: Loss against the reference that the policy allows, a share.
        gain, gain_lower: expert − base with its lower bound, shares.
        retention, retention_lower, retention_upper: (candidate − base) / (expert − base).
        retention_floor: What retention has to reach.
        confidence: One-sided, of each bound of this row.
        checks: The conditions, each with its sentence.
        negative_flips: Keys of the examples that the reference has right and the candidate wrong.
    """

    task: str
    role: Role
    metric: Metric
    verdict: Verdict
    examples: int
    examples_needed: int | None = None
    base: Score | None = None
    champion: Score | None = None
    candidate: Score | None = None
    expert: Score | None = None
    reference: Literal["champion", "base"] | None = None
    wins: int | None = None
    losses: int | None = None
    difference: Finite | None = None
    difference_lower: Finite | None = None
    difference_upper: Finite | None = None
    margin: Finite
    gain: Finite | None = None
    gain_lower: Finite | None = None
    retention: Finite | None = None
    retention_lower: Finite | None = None
    retention_upper: Finite | None = None
    retention_floor: Finite
    confidence: Finite
    checks: tuple[Check, ...] = Field(min_length=1)
    negative_flips: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _verdict_follows_from_checks(self) -> Self:
        if self.verdict != worst(*(check.verdict for check in self.checks)):
            raise ValueError(
                f"verdict {self.verdict} of {self.task} is not the worst of its checks"
            )
        return self

    def row(self) -> dict[str, Any]:
        """One flat row of the gate report table: numbers, no sentences and no keys."""
        row = self.model_dump(exclude={"checks", "negative_flips"})
        for model in ("base", "champion", "candidate", "expert"):
            score = row.pop(model) or {"value": None, "lower": None, "upper": None}
            row |= {
                model: score["value"],
                f"{model}_lower": score["lower"],
                f"{model}_upper": score["upper"],
            }
        return row | {"num_negative_flips": len(self.negative_flips)}


class GateReport(_Value):
    """The decision on one candidate.

    Attributes:
        verdict: `passed` only when every task and every check passed.
        tasks: One decision per task.
        reasons: Plain sentences: why it did not pass and what to try; on a pass, what was shown.
        policy: The policy as it was applied, as plain values.
        rungs: Candidates that one arrival may lead to; they share these gate examples and the error
            rate. Reports of version 0.1 call it `attempts`.
        checks: Conditions on the candidate as a whole: its files, this report itself.
        warnings: Sentences that change no verdict.
        wanted: By task, who wants the candidate whatever it shows on that task, and why, as a sentence.
            It then goes to a person, who decides.
    """

    verdict: Verdict
    tasks: tuple[TaskDecision, ...]
    reasons: tuple[str, ...] = Field(min_length=1)
    policy: dict[str, Any]
    rungs: int = Field(default=1, validation_alias=AliasChoices("rungs", "attempts"))
    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()
    wanted: dict[str, str] = {}

    @model_validator(mode="after")
    def _verdict_follows_from_parts(self) -> Self:
        if self.verdict != overall(self.tasks, self.checks):
            raise ValueError(f"the report is {self.verdict}, which is not the worst of its parts")
        return self

    def goes_on(self, acceptable: Sequence[Verdict]) -> bool:
        """Whether it may be promoted or left to a person: only what is wanted speaks against it."""
        rest = [decision.verdict for decision in self.tasks if decision.task not in self.wanted]
        rest += [check.verdict for check in self.checks]
        return self.verdict in acceptable or (
            bool(self.wanted) and all(verdict in acceptable for verdict in rest)
        )

    def overruled(self, sentences: Sequence[str]) -> GateReport:
        """The same report, failed for what these sentences say."""
        failed = (Check(name="candidate", verdict="failed", sentence=s) for s in sentences)
        changes = {
            "verdict": "failed",
            "checks": (*self.checks, *failed),
            "reasons": (*sentences, *(self.reasons if self.verdict != "passed" else ())),
        }
        return GateReport.model_validate(self.model_dump() | changes)

    def rows(self) -> list[dict[str, Any]]:
        """The gate report table, a row per task."""
        return [decision.row() for decision in self.tasks]

    def to_json(self) -> str:
        """All of it as JSON, which `from_json` reads."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> GateReport:
        """Reads what `to_json` wrote.

        Raises:
            InvalidInput: The text is no such report, or its verdict contradicts its tasks.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InvalidInput(
                where="gate report",
                expected="a report as this version writes it",
                found=str(error),
                remedy="Run the gate again on this candidate.",
            ) from error


def overall(tasks: Sequence[TaskDecision], checks: Sequence[Check]) -> Verdict:
    """The verdict on a candidate; without a task there is nothing that could pass."""
    decided = worst(*(decision.verdict for decision in tasks))
    return worst(decided, *(check.verdict for check in checks))


def worst(*verdicts: Verdict) -> Verdict:
    """The verdict of a whole whose parts have these verdicts; nothing at all has failed."""
    if not verdicts or "failed" in verdicts:
        return "failed"
    return "inconclusive" if "inconclusive" in verdicts else "passed"
