"""The two charts of the decision: scores per task, and where each number lies against its limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from infra.report import svg
from infra.report.summary import points, share
from merging.gate import GateReport, Score, TaskDecision

_WIDTH, _LEFT, _RIGHT = 920, 190, 110
_BAR, _STEP, _ROW = 11, 16, 26
_MODELS = ("base", "champion", "candidate", "expert")
_NAMES = {"champion": "deployed"}


def score_bars(report: GateReport) -> Markup:
    """A group of bars per task: base, deployed, candidate and expert with their bounds."""
    groups = [(d, _scores(d)) for d in report.tasks]
    height = sum(22 + _STEP * len(scores) for _, scores in groups) + 24
    return svg.figure(
        _WIDTH, height, _bars(groups, height), "Scores of base, deployed model, candidate, expert"
    )


def _scores(decision: TaskDecision) -> list[tuple[str, Score]]:
    scores = [(model, getattr(decision, model)) for model in _MODELS]
    return [(model, score) for model, score in scores if score is not None]


def _bars(
    groups: Sequence[tuple[TaskDecision, Sequence[tuple[str, Score]]]], height: float
) -> Iterator[Markup]:
    plot = _WIDTH - _LEFT - _RIGHT
    for percent in range(0, 101, 20):
        x = _LEFT + plot * percent / 100
        yield svg.line(x, 0, x, height - 22, "grid")
        yield svg.text(x, height - 6, f"{percent} %", "tick", "middle")
    y = 0.0
    for decision, scores in groups:
        yield svg.text(0, y + 28, _short(decision.task, 23), "name")
        yield svg.text(0, y + 44, f"{decision.role}, {decision.metric}", "tick")
        for index, (model, score) in enumerate(scores):
            yield from _bar(model, score, y + 14 + index * _STEP, plot)
        y += 22 + _STEP * len(scores)


def _bar(model: str, score: Score, y: float, plot: float) -> Iterator[Markup]:
    name, middle = _NAMES.get(model, model), y + _BAR / 2
    low, high = _LEFT + plot * score.lower, _LEFT + plot * score.upper
    title = f"{name}: {share(score.value)} ({share(score.lower)} to {share(score.upper)})"
    yield svg.rect(_LEFT, y, plot * score.value, _BAR, f"model-{model}", title=title)
    yield svg.line(low, middle, high, middle, "halo")
    yield svg.line(low, middle, high, middle, "whisker")
    for end in (low, high):
        yield svg.line(end, middle - 3, end, middle + 3, "whisker")
    yield svg.text(high + 7, y + _BAR - 1.5, f"{share(score.value)} {name}", "value")


@dataclass(frozen=True)
class _Row:
    """A number with bounds against the limit that it has to stay above."""

    task: str
    verdict: str
    value: float
    lower: float | None
    upper: float | None
    limit: float
    words: str


def limits_chart(report: GateReport) -> Markup:
    """Difference to the reference against the margin, and gain kept against its floor."""
    compared = [(row, d) for d in report.tasks if (row := _difference(d)) is not None]
    differences = [row for row, _ in compared]
    retentions = [_retention(d) for _, d in compared]
    height = 34 + _ROW * len(compared) + 26
    parts = [
        *_forest(differences, 150, 300, "Difference in points", [0.0], labels=True),
        *_forest(retentions, 630, 230, "Gain that is kept, in percent", [0.0, 1.0]),
    ]
    return svg.figure(_WIDTH, height, parts, "Each number against its limit")


def _difference(d: TaskDecision) -> _Row | None:
    """None where candidate and reference were not compared."""
    if d.difference is None:
        return None
    words = f"{points(d.difference)}  (at worst {points(d.difference_lower)})"
    verdict = _verdict(d, "not-worse")
    return _Row(
        d.task, verdict, d.difference, d.difference_lower, d.difference_upper, -d.margin, words
    )


def _retention(d: TaskDecision) -> _Row | None:
    """None where the expert gains nothing, so that there is nothing to keep."""
    if d.retention is None:
        return None
    words = share(d.retention, digits=0)
    verdict, floor = _verdict(d, "retention"), d.retention_floor
    return _Row(d.task, verdict, d.retention, d.retention_lower, d.retention_upper, floor, words)


def _verdict(decision: TaskDecision, name: str) -> str:
    return next((c.verdict for c in decision.checks if c.name == name), "failed")


def _forest(
    rows: Sequence[_Row | None],
    left: float,
    plot: float,
    heading: str,
    marks: Sequence[float],
    *,
    labels: bool = False,
) -> Iterator[Markup]:
    """Dots and lines on one scale; what lies far outside is drawn at its edge."""
    shown = [row for row in rows if row is not None]
    if not shown:
        return
    ends = [*marks, *(row.limit for row in shown)]
    numbers = [x for row in shown for x in (row.value, row.lower, row.upper) if x is not None]
    ends += [min(max(x, -0.5), 1.5) for x in numbers]
    pad = 0.06 * (max(ends) - min(ends))
    low, high = min(ends) - pad, max(ends) + pad

    def place(value: float) -> float:
        return left + plot * (min(max(value, low), high) - low) / (high - low)

    bottom = 34 + _ROW * len(rows)
    yield svg.text(left, 14, heading, "name")
    for mark in marks:
        yield svg.line(place(mark), 26, place(mark), bottom, "zero")
        yield svg.text(place(mark), bottom + 16, _tick(mark), "tick", "middle")
    for index, row in enumerate(rows):
        if row is None:
            continue
        y = 34 + _ROW * (index + 0.5)
        if labels:
            yield svg.text(0, y + 4, _short(row.task, 20), "label")
        yield svg.line(place(row.limit), y - 11, place(row.limit), y + 11, "limit")
        if row.lower is not None and row.upper is not None:
            yield svg.line(place(row.lower), y, place(row.upper), y, f"range {row.verdict}")
        yield svg.circle(place(row.value), y, 4.5, f"dot {row.verdict}", title=row.words)
        yield svg.text(left + plot + 8, y + 4, row.words, "value")
    limits = {row.limit for row in shown}
    if len(limits) == 1:
        yield svg.text(place(*limits), bottom + 16, _tick(*limits), "tick", "middle")


def _tick(value: float) -> str:
    return f"{100 * value:.3g}".replace("-", "−")


def _short(name: str, limit: int) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
