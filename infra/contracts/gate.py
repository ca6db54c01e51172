"""The contract of the gate report: a second look at the table that decides."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.row_conditions import Column

from infra.contracts.checker import Rule, check_rules
from infra.contracts.result import ContractResult
from merging.gate import GateReport

_AGAIN = "Run the gate again on this candidate."
_NUMBERS = ("base", "candidate", "expert", "examples", "difference_lower", "margin", "confidence")


def check(report: GateReport, tasks: Collection[str]) -> ContractResult:
    """See `infra.contracts.check_gate_report`."""
    table = pd.DataFrame(report.rows())
    if not table.empty:
        table["slack"] = _number(table, "difference_lower") + _number(table, "margin")
        table["retention_slack"] = _number(table, "retention") - _number(table, "retention_floor")
        gain, surely = _number(table, "gain"), _number(table, "gain_lower")
        table["shown_gain"] = surely.where(table["role"] == "new", gain)
        for column in (*_NUMBERS, "champion"):
            table[column] = _number(table, column)
    table.index = pd.RangeIndex(1, len(table) + 1)
    rules = [*_whole(tasks)]
    if not table.empty:
        rules += _scores()
        if report.verdict == "passed":
            rules += _pass_holds(report)
    return check_rules("gate report", table, rules)


def _number(table: pd.DataFrame, column: str) -> pd.Series:
    return pd.to_numeric(table[column])


def _whole(tasks: Collection[str]) -> Iterator[Rule]:
    yield Rule(
        gxe.ExpectTableRowCountToEqual(value=len(tasks)),
        f"The report must have one row for each of the {len(tasks)} tasks",
        _AGAIN,
    )
    yield Rule(
        gxe.ExpectColumnDistinctValuesToEqualSet(column="task", value_set=sorted(tasks)),
        "Exactly the tasks of the candidate must have been decided",
        _AGAIN,
    )
    yield Rule(
        gxe.ExpectColumnValuesToBeUnique(column="task"), "Every task must be decided once", _AGAIN
    )


def _scores() -> Iterator[Rule]:
    for model in ("base", "candidate", "expert"):
        yield _between(model, 0, 1, f"The {model} must have a score from 0 to 1 on every task")
    yield _between("champion", 0, 1, "The champion's scores must be from 0 to 1", missing=True)
    yield Rule(
        gxe.ExpectColumnValuesToBeInSet(
            column="verdict", value_set=["passed", "failed", "inconclusive"]
        ),
        "Every task must have a verdict",
        _AGAIN,
    )


def _pass_holds(report: GateReport) -> Iterator[Rule]:
    """A pass, computed once more from the numbers of the table."""
    if any(decision.role == "old" for decision in report.tasks):
        yield Rule(
            gxe.ExpectColumnValuesToNotBeNull(
                column="champion", row_condition=Column("role") == "old"
            ),
            "The deployed model must have been scored on every task that it holds",
            _AGAIN,
        )
    yield _between("examples", 1, 1e9, "Every task must have gate examples")
    yield _between("slack", 0, 1.5, "No loss may reach the margin", strict=True)
    yield _between("shown_gain", 0, 1, "Every expert must gain over the base", strict=True)
    yield _between("retention_slack", 0, 1e6, "Every retention must reach its floor")
    yield _between("confidence", 0.8, 1, "Every bound must have a confidence of 0.8 or more")
    yield Rule(
        gxe.ExpectColumnValuesToBeInSet(column="verdict", value_set=["passed"]),
        "Every task must have passed where the whole has",
        _AGAIN,
    )
    yield Rule(
        gxe.ExpectColumnPairValuesToBeEqual(column_A="losses", column_B="num_negative_flips"),
        "Every negative flip must be listed",
        _AGAIN,
    )


def _between(
    column: str, low: float, high: float, must: str, *, strict: bool = False, missing: bool = False
) -> Rule:
    values = gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, strict_min=strict
    )
    return Rule(values, must, _AGAIN, may_be_missing=missing)
