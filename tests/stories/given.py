"""An engine whose coefficients and answers are given: a story says how good each model is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.engine import Engine
from merging.experts.examples import Examples
from merging.experts.heads import Head
from merging.learning.learn import Learned
from merging.learning.plan import Plan
from merging.learning.state import StepRecord
from merging.models.coefficients import Coefficients
from merging.models.outcomes import Outcomes
from merging.preflight.mismatch import Mismatch
from merging.settings import MergeSettings
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet

TABLE = "examples.jsonl"
BASE = 50  # per cent of the gate examples that the base has right
# How much of each expert goes in: so a rung can be told from the files that it wrote.
CONSTANTS = {"chain": 0.25, "relearn": 0.5, "relearn-row": 0.75}


@dataclass(frozen=True)
class Rule:
    """What comes of a merge that holds these tasks, at this rung or, where that is None, at any."""

    tasks: frozenset[str]
    rung: str | None
    scores: dict[str, int]
    error: Exception | None = None

    def applies(self, tasks: Sequence[str], rung: str) -> bool:
        """Whether it is about such a merge."""
        return self.tasks <= set(tasks) and self.rung in (None, rung)


@dataclass
class GivenEngine:
    """Knows every score in per cent; a merge scores as its experts do unless a rule says else.

    Attributes:
        experts: Score by the digest of the expert's head.
        rules: What comes of certain merges; the last that applies counts.
        slowness: How many times as long as the deployed model a candidate takes to answer.
        sickness: What the health check finds.
        while_learning: What else happens during the next merge's learning.
        unreadable: Tasks whose experts break whatever loads them, in a way that nobody foresaw.
    """

    experts: dict[str, int] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    slowness: float = 1.0
    sickness: Exception | None = None
    while_learning: Callable[[], object] | None = None
    unreadable: set[str] = field(default_factory=set)

    def copy(self) -> GivenEngine:
        """Knows the same experts."""
        return GivenEngine(experts=dict(self.experts))

    def engine(self) -> Engine:
        return Engine(self.learn, self.evaluate, self.time_answers, self.prove, self.check_answers)

    def prove(self, *_: Any, **__: Any) -> tuple[Mismatch, ...]:
        return ()

    def learn(self, experts: ExpertSet, settings: MergeSettings, **more: Any) -> Learned:
        act, self.while_learning = self.while_learning, None
        if act:
            act()
        tasks = experts.tasks
        rung = "relearn-row" if settings.granularity == "row" else "relearn"
        rung = "chain" if more["frozen"] else rung
        for rule in self.rules:
            if rule.error and rule.applies(tasks, rung):
                raise rule.error
        coefficients = Coefficients.constant(tasks, experts.names, CONSTANTS[rung])
        plan = Plan(((tasks,),), 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, {})
        history = tuple(StepRecord(step, dict.fromkeys(tasks, 1 / step)) for step in (1, 2))
        return Learned(coefficients, experts.heads, history, plan)

    def evaluate(self, backbone: Backbone, head: Head, examples: Examples, _: Any) -> Outcomes:
        return answers(examples, self._score(backbone.directory, head))

    def time_answers(self, models: Sequence[Backbone], *_: Any) -> tuple[list[float], ...]:
        return ([self.slowness], *([1.0] for _ in models[1:]))

    def check_answers(self, directory: Path) -> None:
        assert (directory / "probe.json").exists()
        if self.sickness:
            raise self.sickness

    def _score(self, model: Path, head: Head) -> int:
        if (model / TABLE).exists():
            if head.task in self.unreadable:
                raise ValueError("operands could not be broadcast together")
            return self.experts[head.digest]
        file = model.parent / "coefficients.safetensors"
        if not file.exists():
            return BASE
        merged = Coefficients.load(file)
        constant = float(next(iter(merged.values.values())).flatten()[0])
        rung = next(rung for rung, value in CONSTANTS.items() if value == constant)
        for rule in reversed(self.rules):
            if head.task in rule.scores and rule.applies(merged.tasks, rung):
                return rule.scores[head.task]
        return self.experts[head.digest] if head.task in merged.tasks else BASE


def answers(examples: Examples, score: int) -> Outcomes:
    """Right on the first `score` per cent of the examples, so that better models nest."""
    right = round(len(examples) * score / 100)
    predicted = [t if i < right else 1 - t for i, t in enumerate(examples.targets)]
    return Outcomes(examples.keys, tuple(predicted), examples.targets)
