"""How often the gate is wrong, measured by simulation against a naive rule.

    python -m benchmarks.gate            # two minutes on one core
    python -m benchmarks.gate --quick    # a tenth of the draws
    python -m benchmarks.gate --bootstrap  # the size of the bootstrap bound instead, two minutes

The naive rule promotes when the measured mean accuracy is not lower than the deployed model's. The
gate promotes when Tango's lower bound of the difference is above −margin. Accuracy is simulated as
counts of a paired comparison: the candidate's true change and the share of examples on which the
two models disagree are known, and each draw is one gate set.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from merging.gate import GatePolicy
from merging.gate.comparison import compare
from merging.gate.statistics import (
    Floats,
    examples_needed,
    fewest_examples,
    quantile,
    tango_statistic,
)
from merging.models.outcomes import Outcomes

Flags = NDArray[np.bool_]

POLICY = GatePolicy()
DISAGREEMENT = 0.08  # share of examples on which candidate and deployed model differ
DIFFERENCES = (-0.05, -0.04, -0.03, -0.02, -0.01, -0.005, 0.0, 0.01, 0.02)
SIZES = (100, 200, 500, 1_000, 2_000, 3_000)


def main() -> None:
    """Prints the tables, each from random numbers of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws")
    parser.add_argument("--bootstrap", action="store_true", help="only the bootstrap bound")
    options = parser.parse_args()
    scale = 10 if options.quick else 1
    if options.bootstrap:
        print_bootstrap(np.random.default_rng([20_412, 5]), 800 // scale)
        return
    one, two, three, four, five = (np.random.default_rng([20_412, part]) for part in range(5))
    print_pass_rates(one, 200_000 // scale)
    print_size(two, 400_000 // scale)
    print_ladder(three, 200_000 // scale)
    print_number_of_tasks(four, 200_000 // scale)
    print_drift(five, 150 // scale)


def draw(
    rng: np.random.Generator, difference: float, disagreement: float, n: int, draws: int
) -> tuple[Floats, Floats]:
    """Wins and losses of `draws` gate sets, float64 [draws] each."""
    disagreement = max(disagreement, abs(difference))
    wins, losses = (disagreement + difference) / 2, (disagreement - difference) / 2
    counts = rng.multinomial(n, [wins, losses, 1 - disagreement], size=draws).astype(np.float64)
    return counts[:, 0], counts[:, 1]


def passes(wins: Floats, losses: Floats, n: int, margin: float, confidence: float) -> Flags:
    """Where the gate's bound is above −margin, bool [draws]."""
    if n < max(POLICY.minimum_examples, fewest_examples(margin, confidence)):
        return np.zeros(wins.shape, dtype=bool)
    return _statistic(wins, losses, n, margin) > quantile(confidence)


def undecided(wins: Floats, losses: Floats, n: int) -> Flags:
    """Where the gate says that the examples are too few, bool [draws]."""
    z = quantile(POLICY.confidence)
    statistic = _statistic(wins, losses, n, POLICY.margin)
    total, place = np.unique(wins + losses, return_inverse=True)
    needed = np.array([examples_needed(t / n, POLICY.margin, POLICY.confidence) for t in total])
    return (np.abs(statistic) <= z) & (n < needed[place])


def _statistic(wins: Floats, losses: Floats, n: int, margin: float) -> Floats:
    return tango_statistic(wins, losses, np.array(float(n)), np.array(-margin))


def print_pass_rates(rng: np.random.Generator, draws: int) -> None:
    """Table 1: how often each rule promotes, by true difference and number of examples."""
    rules: dict[str, Callable[[Floats, Floats, int], Flags]] = {
        "naive rule promotes": lambda wins, losses, _n: wins >= losses,
        "gate promotes": lambda w, lo, n: passes(w, lo, n, POLICY.margin, POLICY.confidence),
        "gate asks for more examples": undecided,
    }
    heading(
        f"1. One task, by true difference and gate examples (margin {points(POLICY.margin)} points, "
        f"disagreement {DISAGREEMENT:.0%}, {draws:,} draws a cell, percent)"
    )
    samples = {(d, n): draw(rng, d, DISAGREEMENT, n, draws) for d in DIFFERENCES for n in SIZES}
    for name, rule in rules.items():
        rows = [
            [points(d), *(percent(rule(*samples[d, n], n).mean()) for n in SIZES)]
            for d in DIFFERENCES
        ]
        table([name, *map(str, SIZES)], rows)


def print_size(rng: np.random.Generator, draws: int) -> None:
    """Table 2: how often the gate promotes a loss of exactly the margin."""
    error = np.sqrt(0.05 * 0.95 / draws)
    heading(
        "2. False promotion at a true loss of exactly the margin, in percent "
        f"(goal: at most 5.0; simulation error ±{200 * error:.2f})"
    )
    rows = []
    for margin in (0.02, 0.03, 0.05):
        for disagreement in (0.05, 0.08, 0.15, 0.30):
            cells = [
                passes(*draw(rng, -margin, disagreement, n, draws), n, margin, 0.95).mean()
                for n in SIZES
            ]
            rows.append([points(margin), f"{disagreement:.0%}", *(f"{100 * c:.2f}" for c in cells)])
    table(["margin", "disagreement", *map(str, SIZES)], rows)


def print_ladder(rng: np.random.Generator, draws: int) -> None:
    """Table 3: what several tries on the same examples do to the error rate."""
    heading(
        "3. Three rungs of a ladder on the same examples, each with a true loss of the margin: "
        "percent of arrivals of which one rung is promoted (1,000 examples)"
    )
    rungs = [draw(rng, -POLICY.margin, DISAGREEMENT, 1_000, draws) for _ in range(3)]
    rows = []
    for name, confidence in (("95 % each", 0.95), ("shared: 98.3 % each", 1 - 0.05 / 3)):
        any_rung = np.any([passes(*r, 1_000, POLICY.margin, confidence) for r in rungs], axis=0)
        rows.append([name, percent(any_rung.mean())])
    table(["confidence", "promoted"], rows)


def print_number_of_tasks(rng: np.random.Generator, draws: int) -> None:
    """Table 4: how often good candidates are bounced, by number of tasks."""
    heading(
        "4. Bounced although every task is truly as good, in percent, by number of old tasks "
        f"(disagreement {DISAGREEMENT:.0%})"
    )
    rows = []
    for n in SIZES[2:]:
        counts = draw(rng, 0.0, DISAGREEMENT, n, draws)
        one = passes(*counts, n, POLICY.margin, POLICY.confidence).mean()
        rows.append([str(n), *(percent(1 - one**tasks) for tasks in (1, 3, 10, 20))])
    table(["gate examples a task", "1 task", "3 tasks", "10 tasks", "20 tasks"], rows)


TASKS, EXAMPLES, PROMOTIONS, MOST_ARRIVALS = 5, 1_000, 30, 600
BASE, EXPERT, START = 0.70, 0.80, 0.79
FLOORS = {"gate, floor 40 %": 0.4, "gate, floor 70 %": 0.7, "gate, floor 70 %, fresh": 0.7}
RULES = ("naive", "gate without floor", *FLOORS)


def print_drift(rng: np.random.Generator, runs: int) -> None:
    """Table 5: where old tasks are after many promotions."""
    heading(
        f"5. After {PROMOTIONS} promotions: true change of {TASKS} old tasks in points "
        f"({EXAMPLES:,} gate examples each, never renewed unless fresh; base {BASE:.0%}, "
        f"expert {EXPERT:.0%}, start {START:.0%}; {runs} runs; at most {MOST_ARRIVALS} arrivals)"
    )
    rows = []
    for mean, name in ((0.0, "0 ± 1"), (-0.005, "−0.5 ± 1")):
        for rule in RULES:
            (own,) = rng.spawn(1)
            results = np.array([drift(own, rule, mean) for _ in range(runs)])
            average, worst, promotions, arrivals = results.T
            rows.append(
                [
                    name,
                    rule,
                    points(average.mean()),
                    points(worst.mean()),
                    points(np.quantile(worst, 0.05)),
                    f"{promotions.mean():.1f}",
                    f"{arrivals.mean():.0f}",
                ]
            )
    table(
        [
            "change by an arrival",
            "rule",
            "mean task",
            "worst task",
            "worst, 1 run in 20",
            "promotions",
            "arrivals",
        ],
        rows,
    )


def drift(rng: np.random.Generator, rule: str, mean: float) -> tuple[float, float, int, int]:
    """One history of a family.

    Every arrival changes the true accuracy of each old task by a normal amount (mean `mean`,
    standard deviation one point), never above its expert's, and flips the answers of a random part
    of the same gate examples.

    Returns:
        True change of the mean task and of the worst task, promotions and arrivals until the end.
    """
    truth = np.full(TASKS, START)
    right = rng.random((TASKS, EXAMPLES)) < START
    promotions, arrivals = 0, 0
    while promotions < PROMOTIONS and arrivals < MOST_ARRIVALS:
        arrivals += 1
        if rule.endswith("fresh"):
            right = rng.random((TASKS, EXAMPLES)) < truth[:, None]
        change = np.minimum(rng.normal(mean, 0.01, TASKS), EXPERT - truth)
        disagreement = np.maximum(DISAGREEMENT, np.abs(change))
        lose = (disagreement - change) / 2 / truth
        win = (disagreement + change) / 2 / (1 - truth)
        turned = rng.random((TASKS, EXAMPLES)) < np.where(right, lose[:, None], win[:, None])
        candidate = right ^ turned
        if promotes(rule, right, candidate):
            truth, right, promotions = truth + change, candidate, promotions + 1
    return float((truth - START).mean()), float((truth - START).min()), promotions, arrivals


def promotes(rule: str, champion: Flags, candidate: Flags) -> bool:
    """Whether a rule promotes a candidate, from right answers, bool [tasks, examples]."""
    if rule == "naive":
        return bool(candidate.mean() >= champion.mean())
    wins = (candidate & ~champion).sum(axis=1).astype(np.float64)
    losses = (champion & ~candidate).sum(axis=1).astype(np.float64)
    if not passes(wins, losses, EXAMPLES, POLICY.margin, POLICY.confidence).all():
        return False
    kept = (candidate.mean(axis=1) - BASE) / (EXPERT - BASE)
    return bool((kept >= FLOORS.get(rule, -np.inf)).all())


def print_bootstrap(rng: np.random.Generator, sets: int) -> None:
    """Table 6: the same as table 2 for macro-F1, whose bound is a bootstrap's."""
    heading(
        "6. macro-F1 of 5 equally frequent classes, true loss of exactly the margin: percent promoted "
        f"({sets} gate sets a cell, standard error {100 * np.sqrt(0.05 * 0.95 / sets):.1f})"
    )
    row = []
    for n in (200, 500):
        bounds = [macro_f1_bound(rng, n, classes=5) for _ in range(sets)]
        row.append(percent(float(np.mean(np.array(bounds) > -POLICY.margin))))
    table(["200 examples", "500 examples"], [row])


def macro_f1_bound(rng: np.random.Generator, n: int, classes: int, accuracy: float = 0.8) -> float:
    """The gate's lower bound for one gate set whose models truly differ by the margin."""
    targets = rng.integers(0, classes, n)
    wrong = (targets + rng.integers(1, classes, n)) % classes
    right = rng.random(n) < accuracy
    lose, win = (DISAGREEMENT + POLICY.margin) / 2, (DISAGREEMENT - POLICY.margin) / 2
    turned = rng.random(n) < np.where(right, lose / accuracy, win / (1 - accuracy))
    keys = tuple(map(str, range(n)))
    candidate, champion = (
        Outcomes(keys, tuple(np.where(r, targets, wrong).tolist()), tuple(targets.tolist()))
        for r in (right ^ turned, right)
    )
    return compare("macro-f1", candidate, champion, POLICY.confidence).difference.lower


def heading(text: str) -> None:
    """Prints a table's heading."""
    print(f"\n{text}\n")


def table(header: list[str], rows: list[list[str]]) -> None:
    """Prints a Markdown table with even columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |")
    print()


def points(share: float) -> str:
    """A share in points, without trailing zeros."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".").replace("-", "−")


def percent(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
