"""The decision in a few lines: Markdown for MLflow and Prefect, and flat metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate

from infra.registry.metrics import MEAN_RETENTION, PASSED, task_metric
from merging.gate import GateReport, Score, TaskDecision

HEADLINES = {
    "passed": "Passed: this candidate may replace the deployed model.",
    "failed": "Failed: this candidate must not replace the deployed model.",
    "inconclusive": "Not decided: the evidence does not reach either way, so it does not pass.",
}
_METRICS = (
    "difference",
    "difference_lower",
    "difference_upper",
    "gain",
    "retention",
    "retention_lower",
    "examples",
    "wins",
    "losses",
)
_MARKUP = re.compile(r"[\\<>\[\]|]")  # What begins a tag, a link, an image or a cell of a table.
LONGEST_SUMMARY = 5_000  # Characters that MLflow keeps of a version's description.


def markdown_summary(report: GateReport, link: str = "") -> str:
    """The verdict, the reasons and a row per task, as Markdown of bounded length.

    Where many tasks make it too long, what is worst comes first and the rest is counted.

    Args:
        report: The decision.
        link: Address of the full report, where it has one.
    """
    order = ("failed", "inconclusive", "passed")
    rows = sorted(summary_rows(report), key=lambda row: order.index(row["verdict"]))
    header = [_row(rows[0]), _row(["---"] * len(rows[0]))] if rows else []
    table = [_row(row.values()) for row in rows]
    warnings = [f"- Warning: {_plain(warning)}" for warning in report.warnings]
    wanted = dict.fromkeys(report.wanted.values())
    reasons = [f"- {_plain(reason)}" for reason in (*wanted, *report.reasons)]
    end = ["", f"[Full report]({link})"] if link else []
    head = [f"**{headline(report)}**", "", *header]
    room = LONGEST_SUMMARY - len("\n".join([*head, *end])) - 100  # The two counts take the rest.
    shown_rows = _fitting(table, room)
    room -= len("\n".join(shown_rows))
    shown = _fitting([*reasons, *warnings], room)
    counts = [
        f"{missing} more {what} in the full report."
        for missing, what in (
            (len(table) - len(shown_rows), "tasks"),
            (len(reasons) + len(warnings) - len(shown), "sentences"),
        )
        if missing
    ]
    return "\n".join([*head, *shown_rows, "", *shown, *counts, *end])


def headline(report: GateReport) -> str:
    """The verdict as a sentence."""
    if report.wanted and report.verdict != "passed" and report.goes_on(("passed",)):
        return "Not passed, and wanted all the same: a person decides, and gives a reason."
    return HEADLINES[report.verdict]


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    """The first lines that take at most `room` characters, line ends counted."""
    ends = accumulate(len(line) + 1 for line in lines)
    return [line for line, end in zip(lines, ends, strict=True) if end <= room]


def summary_rows(report: GateReport) -> list[dict[str, str]]:
    """A row per task in words, for tables that people read."""
    return [
        {
            "task": decision.task,
            "role": decision.role,
            "base": _score(decision.base),
            "expert": _score(decision.expert),
            "deployed": _score(decision.champion),
            "candidate": _score(decision.candidate),
            "difference (at worst)": _difference(decision),
            "gain kept": share(decision.retention, digits=0),
            "flips": str(len(decision.negative_flips)),
            "verdict": decision.verdict,
        }
        for decision in report.tasks
    ]


def gate_metrics(report: GateReport) -> dict[str, float]:
    """Flat numbers `gate/<task>/<name>`, so that charts show a family's history."""
    metrics: dict[str, float] = {PASSED: float(report.verdict == "passed")}
    for decision in report.tasks:
        scores = {
            "base": decision.base,
            "champion": decision.champion,
            "candidate": decision.candidate,
            "expert": decision.expert,
        }
        numbers = {name: score.value for name, score in scores.items() if score is not None}
        numbers |= {n: v for n in _METRICS if (v := getattr(decision, n)) is not None}
        numbers["negative_flips"] = len(decision.negative_flips)
        metrics |= {task_metric(decision.task, name): float(v) for name, v in numbers.items()}
    retentions = [d.retention for d in report.tasks if d.retention is not None]
    if retentions and len(retentions) == len(report.tasks):
        metrics[MEAN_RETENTION] = sum(retentions) / len(retentions)
    return metrics


def share(value: float | None, digits: int = 1) -> str:
    """A share in percent, a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %".replace("-", "−")


def span(lower: float, upper: float, digits: int = 1) -> str:
    """Two bounds in percent."""
    return f"{100 * lower:.{digits}f} … {100 * upper:.{digits}f}".replace("-", "−")


def points(value: float | None) -> str:
    """A signed difference of shares in points, a dash where there is none."""
    if value is None:
        return "–"
    return f"{100 * value:+.1f}".replace("-", "−") if abs(value) >= 5e-4 else "0.0"


def _score(score: Score | None) -> str:
    return share(score.value if score else None)


def _difference(decision: TaskDecision) -> str:
    if decision.difference is None:
        return "–"
    return f"{points(decision.difference)} ({points(decision.difference_lower)})"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Text on one line that Markdown shows as it is: no link, tag or table can begin in it."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
