"""The metrics against scikit-learn and by hand, and their bootstrap against theory."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from merging.gate import GatePolicy
from merging.gate.comparison import compare
from merging.gate.decision import TaskScores, decide
from merging.gate.metrics import bootstrap_scores, score, token_f1
from merging.models.outcomes import Outcomes


def classifier(accuracy: float, n: int = 600, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 3
    wrong = (targets + rng.integers(1, 3, n)) % 3
    predicted = np.where(np.random.default_rng(7).random(n) < accuracy, targets, wrong)
    keys = tuple(f"{i:04d}" for i in range(n))
    return Outcomes(keys, tuple(predicted.tolist()), tuple(targets.tolist()))


def test_macro_f1_is_that_of_scikit_learn():
    outcomes = classifier(0.7)
    expected = f1_score(outcomes.targets, outcomes.predicted, average="macro")
    assert score("macro-f1", outcomes) == pytest.approx(expected)


def test_a_class_that_only_a_model_predicts_does_not_change_the_classes():
    outcomes = Outcomes(("a", "b"), (0, 5), (0, 1))
    assert score("macro-f1", outcomes) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        ("The cat sat.", "cat sat", 1.0),
        ("a cat", "the dog", 0.0),
        ("cat cat", "cat", 2 / 3),
        ("", "", 1.0),
        ("", "cat", 0.0),
    ],
)
def test_token_f1(predicted, target, expected):
    assert token_f1(predicted, target) == pytest.approx(expected)


def test_the_bootstrap_is_paired_and_repeatable():
    one = classifier(0.8)
    drawn = bootstrap_scores("macro-f1", (one, one), replicates=300)
    assert drawn.shape == (300, 2)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn == bootstrap_scores("macro-f1", (one, one), replicates=300)).all()


def test_bootstrap_bounds_of_a_mean_agree_with_the_exact_ones():
    model, reference = classifier(0.85), classifier(0.8)
    exact = compare("accuracy", model, reference, 0.95).difference
    texts = [
        Outcomes(o.keys, tuple(map(str, o.predicted)), tuple(map(str, o.targets)))
        for o in (model, reference)
    ]
    drawn = compare("token-f1", *texts, 0.95).difference
    assert drawn.estimate == pytest.approx(exact.estimate)
    assert drawn.lower == pytest.approx(exact.lower, abs=0.006)
    assert drawn.upper == pytest.approx(exact.upper, abs=0.006)


@pytest.mark.parametrize("metric", ["macro-f1", "token-f1", "exact-match"])
def test_every_metric_decides(metric):
    models = [classifier(a) for a in (0.6, 0.9, 0.85, 0.84)]
    if metric != "macro-f1":
        models = [
            Outcomes(o.keys, tuple(map(str, o.predicted)), tuple(map(str, o.targets)))
            for o in models
        ]
    base, expert, candidate, champion = models
    policy = GatePolicy(metric=metric)
    task = TaskScores("t", "old", base, expert, candidate, champion, frozenset())
    report = decide(policy, [task])
    assert report.verdict == "passed"
    assert report.tasks[0].metric == metric
    assert report.tasks[0].retention_lower < report.tasks[0].retention
    worse = TaskScores(
        "t",
        "old",
        base,
        expert,
        classifier(0.7) if metric == "macro-f1" else base,
        champion,
        frozenset(),
    )
    assert decide(policy, [worse]).verdict == "failed"
