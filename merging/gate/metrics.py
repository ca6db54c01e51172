"""The metrics that a task can be judged by, and their paired bootstrap."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from merging.gate.report import Metric
from merging.gate.statistics import Floats
from merging.models.outcomes import Outcomes

REPLICATES = 5_000  # Draws of the bootstrap: a bound at 95 % rests on the 250 most extreme.
_CHUNK = 250  # Replicates that are held at once: with 3,000 examples they take 6 MB.


def score(metric: Metric, outcomes: Outcomes) -> float:
    """The metric on all examples, a share in [0, 1]."""
    whole = np.ones((1, len(outcomes)))
    return float(_weighted_scores(metric, outcomes, whole)[0])


def bootstrap_scores(
    metric: Metric, outcomes: Sequence[Outcomes], replicates: int = REPLICATES, seed: int = 0
) -> Floats:
    """The metric of several models on the same resampled examples.

    The paired bootstrap: each replicate draws as many examples with replacement, and every model
    is scored on that draw. The seed is fixed so that a decision can be reproduced.

    Returns:
        float64 [replicates, models].
    """
    n = len(outcomes[0])
    rng = np.random.default_rng(seed)
    chunks = []
    for start in range(0, replicates, _CHUNK):
        size = min(_CHUNK, replicates - start)
        weights = _resampled(rng, n, size)
        chunks.append(np.stack([_weighted_scores(metric, o, weights) for o in outcomes], axis=1))
    return np.concatenate(chunks)


def _resampled(rng: np.random.Generator, n: int, size: int) -> Floats:
    """How often each of `n` examples is drawn in each of `size` replicates, float64 [size, n]."""
    drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def example_scores(metric: Metric, outcomes: Outcomes) -> Floats:
    """The score of each example, float64 [examples], of a metric that is a mean over examples."""
    if metric == "token-f1":
        pairs = zip(outcomes.predicted, outcomes.targets, strict=True)
        return np.array([token_f1(str(p), str(t)) for p, t in pairs], dtype=np.float64)
    return outcomes.correct.astype(np.float64)


def token_f1(predicted: str, target: str) -> float:
    """Overlap of two texts as bags of words, as SQuAD counts it.

    Rajpurkar et al., arXiv 1606.05250: lower case, no punctuation, no English articles. Two texts
    without a word agree.
    """
    left, right = Counter(_words(predicted)), Counter(_words(target))
    if not left or not right:
        return float(left == right)
    common = sum((left & right).values())
    return 2 * common / (left.total() + right.total())


def _words(text: str) -> list[str]:
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _weighted_scores(metric: Metric, outcomes: Outcomes, weights: Floats) -> Floats:
    """The metric with each example counted `weights` times; weights [replicates, examples]."""
    if metric == "macro-f1":
        return _weighted_macro_f1(outcomes, weights)
    return weights @ example_scores(metric, outcomes) / weights.sum(axis=1)


def _weighted_macro_f1(outcomes: Outcomes, weights: Floats) -> Floats:
    """Mean F1 over the classes that occur among the targets.

    A class that a replicate happens not to draw, and that no model predicts there, has no F1 and is
    left out of that replicate's mean.
    """
    predicted, targets = np.array(outcomes.predicted), np.array(outcomes.targets)
    classes = np.unique(targets)
    is_predicted = (predicted[:, None] == classes).astype(np.float64)
    is_target = (targets[:, None] == classes).astype(np.float64)
    hits = weights @ (is_predicted * is_target)
    counts = weights @ (is_predicted + is_target)
    seen = counts > 0
    f1 = np.divide(2 * hits, counts, out=np.zeros_like(hits), where=seen)
    return f1.sum(axis=1) / seen.sum(axis=1)
