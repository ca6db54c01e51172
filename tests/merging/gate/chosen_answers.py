"""Builders of outcomes with chosen counts of right and wrong answers."""

from __future__ import annotations

from merging.gate.decision import TaskScores
from merging.models.outcomes import Outcomes

CLASSES = 5


def answers(right: list[bool]) -> Outcomes:
    """Outcomes of a model on examples 0, 1, ... that is right exactly where `right` says so."""
    keys = tuple(f"key-{i:05d}" for i in range(len(right)))
    targets = tuple(i % CLASSES for i in range(len(right)))
    predicted = tuple(t if r else (t + 1) % CLASSES for t, r in zip(targets, right, strict=True))
    return Outcomes(keys, predicted, targets)


def first_right(count: int, n: int = 1000) -> Outcomes:
    """A model that has the first `count` of `n` examples right, so that better ones nest."""
    return answers([i < count for i in range(n)])


def task_scores(
    task="reviews", role="old", base=700, expert=800, candidate=785, champion=790, n=1000
) -> TaskScores:
    """The scores of one task from counts of right answers."""
    return TaskScores(
        task=task,
        role=role,
        base=first_right(base, n),
        expert=first_right(expert, n),
        candidate=first_right(candidate, n),
        champion=None if champion is None else first_right(champion, n),
        calibration=frozenset({"learned-from"}),
    )
