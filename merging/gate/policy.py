"""What a candidate must show, as people write it in the family file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from merging.gate.report import Metric, Role, Verdict


class TaskPolicy(BaseModel):
    """What one task must show; every share is in [0, 1] (0.03 = three points of accuracy).

    Attributes:
        metric: What is compared.
        margin: Loss against the reference that still counts as not worse, a share.
        retention_floor_old: Share of its expert's gain over the base that a task already deployed
            must keep at every promotion, so that many small allowed losses cannot add up.
        retention_floor_new: The same for a task that arrives.
        minimum_examples: Fewer gate examples than this are never enough.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric = "accuracy"
    margin: float = Field(default=0.03, gt=0, lt=0.5)
    retention_floor_old: float = Field(default=0.4, ge=0, lt=1)
    retention_floor_new: float = Field(default=0.5, ge=0, lt=1)
    minimum_examples: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _floors_are_ordered(self) -> Self:
        if self.retention_floor_old > self.retention_floor_new:
            raise ValueError(
                f"retention_floor_old ({self.retention_floor_old}) is above retention_floor_new "
                f"({self.retention_floor_new}): a task could be admitted that the next decision "
                "has to fail. Lower retention_floor_old."
            )
        return self

    def retention_floor(self, role: Role) -> float:
        """The floor for a task that is deployed already, or for one that arrives."""
        return self.retention_floor_old if role == "old" else self.retention_floor_new


class GatePolicy(TaskPolicy):
    """The policy of a family: the values for every task, and what differs for some.

    Attributes:
        confidence: Confidence of every bound that decides; bounds are one-sided.
        retention_evidence: `estimate` compares the measured retention with its floor; `bound`
            its lower confidence bound, which needs several times as many examples.
        inconclusive: What the flow does with a candidate that cannot be decided: `reject` it, or
            leave it to a person (`review`).
        decision_budget: Decisions on the same gate examples before the report warns that they are
            worn: each decision lets a little of them into what is deployed.
        latency_factor: A prediction may take so many times as long as the deployed model's.
        tasks: Values that replace the family's for one task, by task name.
    """

    confidence: float = Field(default=0.95, ge=0.8, lt=1)
    retention_evidence: Literal["estimate", "bound"] = "estimate"
    inconclusive: Literal["reject", "review"] = "reject"
    decision_budget: int = Field(default=50, ge=1)
    latency_factor: float = Field(default=1.5, gt=1)
    tasks: Mapping[str, Mapping[str, float | int | str]] = {}

    @model_validator(mode="after")
    def _overrides_are_valid(self) -> Self:
        for task in self.tasks:
            self.for_task(task)
        return self

    @property
    def acceptable(self) -> tuple[Verdict, ...]:
        """The verdicts with which a candidate may go on; an undecided one goes to a person."""
        return ("passed", "inconclusive") if self.inconclusive == "review" else ("passed",)

    def for_task(self, task: str) -> TaskPolicy:
        """The values that hold for one task."""
        common = {name: getattr(self, name) for name in TaskPolicy.model_fields}
        return TaskPolicy.model_validate(common | dict(self.tasks.get(task, {})))
