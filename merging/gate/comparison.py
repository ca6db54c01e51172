"""Two models on the same examples: their scores, the difference, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from merging.gate.metrics import bootstrap_scores, example_scores, score
from merging.gate.report import Metric
from merging.gate.statistics import (
    Floats,
    Interval,
    examples_needed,
    retention_interval,
    tango_interval,
    wilson_interval,
)
from merging.models.outcomes import Outcomes

_RIGHT_OR_WRONG: tuple[Metric, ...] = ("accuracy", "exact-match")


@dataclass(frozen=True)
class Comparison:
    """A model against a reference.

    Attributes:
        examples: Number of examples that both answered.
        score, reference_score: What each scores, with bounds.
        difference: score − reference_score, with bounds.
        spread: Variance of the difference of one example, so that it can be said how many examples
            decide; for right-or-wrong metrics the share of discordant examples.
        wins, losses: Examples that only the model / only the reference has right.
        confidence: Confidence of every bound; bounds are one-sided.
    """

    examples: int
    score: Interval
    reference_score: Interval
    difference: Interval
    spread: float
    wins: int
    losses: int
    confidence: float

    def examples_needed(self, margin: float) -> int:
        """Examples at which an equally good model passes `margin` four times in five."""
        return examples_needed(self.spread, margin, self.confidence)


def compare(metric: Metric, model: Outcomes, reference: Outcomes, confidence: float) -> Comparison:
    """Compares two models that answered the same examples in the same order."""
    n = len(reference)
    right, reference_right = model.correct, reference.correct
    wins = int((right & ~reference_right).sum())
    losses = int((reference_right & ~right).sum())
    if metric in _RIGHT_OR_WRONG:
        of_model = wilson_interval(int(right.sum()), n, confidence)
        of_reference = wilson_interval(int(reference_right.sum()), n, confidence)
        difference = tango_interval(wins, losses, n, confidence)
        spread = (wins + losses) / n
    else:
        drawn = bootstrap_scores(metric, (model, reference))
        values = score(metric, model), score(metric, reference)
        of_model = _percentiles(values[0], drawn[:, 0], confidence)
        of_reference = _percentiles(values[1], drawn[:, 1], confidence)
        drawn_difference = drawn[:, 0] - drawn[:, 1]
        difference = _percentiles(values[0] - values[1], drawn_difference, confidence)
        spread = n * float(drawn_difference.var())
    return Comparison(n, of_model, of_reference, difference, spread, wins, losses, confidence)


def measure_retention(
    metric: Metric, base: Outcomes, expert: Outcomes, candidate: Outcomes, confidence: float
) -> Interval | None:
    """Share of the expert's gain over the base that the candidate keeps.

    Returns:
        None when the expert's gain is not shown to be positive.
    """
    if metric == "macro-f1":
        drawn = bootstrap_scores(metric, (base, expert, candidate))
        values = [score(metric, outcomes) for outcomes in (base, expert, candidate)]
        covariance = np.cov(drawn[:, 2] - drawn[:, 0], drawn[:, 1] - drawn[:, 0])
        return retention_interval(
            values[2] - values[0], values[1] - values[0], covariance, confidence
        )
    floor = example_scores(metric, base)
    kept = example_scores(metric, candidate) - floor
    gain = example_scores(metric, expert) - floor
    covariance = np.cov(kept, gain, ddof=0) / len(base)
    return retention_interval(float(kept.mean()), float(gain.mean()), covariance, confidence)


def _percentiles(estimate: float, drawn: Floats, confidence: float) -> Interval:
    lower, upper = np.quantile(drawn, [1 - confidence, confidence])
    return Interval(estimate, float(lower), float(upper))
