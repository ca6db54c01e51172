"""The contract of an examples table, checked when an expert lands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.row_conditions import Column

from infra.contracts.checker import Rule, check_rules
from infra.contracts.expectations import (
    ExpectKeysToHaveOneValue,
    ExpectLargestClassShareToBeAtMost,
)
from infra.contracts.result import ContractResult
from merging.experts.labels import similar_names
from merging.experts.rows import Requirement, Row, read_rows, requirements
from merging.experts.tables import MAXIMUM_ROWS
from merging.gate import GatePolicy
from merging.gate.statistics import fewest_examples
from merging.kinds import ModelKind

MINIMUM_CALIBRATION = 8
ENOUGH_CALIBRATION = 64
LARGEST_CLASS = 0.9
_NOTHING = "nothing"


def check(
    table: pd.DataFrame,
    kind: ModelKind,
    labels: Sequence[str],
    policy: GatePolicy,
    task: str,
) -> ContractResult:
    """See `infra.contracts.check_examples`."""
    needed = [kind.input_column, kind.target_column]
    rules = [_has_columns(needed), _has_rows()]
    facts = pd.DataFrame({column: [""] * len(table) for column in map(str, table.columns)})
    if set(needed) <= set(table.columns) and len(table):
        rows, of_rows = read_rows(table, kind, labels), requirements(kind, labels)
        facts = _facts(rows, table.columns, of_rows, labels)
        if kind.reads_images:
            _look_at_images(rows, facts)
        rules += [*_row_rules(kind, of_rows), *_split_rules(policy, task)]
        rules += _class_rules(labels) if kind.has_head else ()
    facts.index = pd.RangeIndex(1, len(facts) + 1)
    result = check_rules(f"examples of {task}" if task else "examples", facts, rules)
    return replace(result, warnings=(*result.warnings, *_similar(labels)))


def _similar(labels: Sequence[str]) -> Iterator[str]:
    pairs = similar_names(labels)
    if pairs:
        shown = ", ".join(f"{first!r:.40} and {name!r:.40}" for first, name in pairs[:3])
        yield (
            f"Label names should differ by more than case and space, but found {shown}. Make sure "
            "that they are different classes."
        )


def _facts(
    rows: Sequence[Row], columns: Iterable[Any], names: Iterable[str], labels: Sequence[str]
) -> pd.DataFrame:
    """What the rules look at: a row per example, without the content itself.

    Columns `key`, `side`, `target` (label name, or length of the target text) and, for each
    requirement, what is wrong with the row, beside the names of the table's own columns.
    """
    facts: dict[str, Sequence[Any]] = {str(column): [""] * len(rows) for column in columns}
    facts |= {_wrong(name): [row.faults.get(name, _NOTHING) for row in rows] for name in names}
    facts |= {
        "key": [row.key for row in rows],
        "side": [row.side for row in rows],
        "target": [
            labels[row.target]
            if isinstance(row.target, int)
            else row.target and float(len(row.target))
            for row in rows
        ],
    }
    return pd.DataFrame(facts)


def _wrong(requirement: str) -> str:
    return f"wrong with {requirement}"


def _look_at_images(rows: Sequence[Row], facts: pd.DataFrame) -> None:
    """Decodes every image, and adds what is wrong and what is unusual to the facts."""
    from merging.experts.images import ImageLook, look_at_image  # This imports torch.

    looks = [
        look_at_image(row.input) if isinstance(row.input, bytes) else ImageLook() for row in rows
    ]
    faults = zip(facts[_wrong("input")], looks, strict=True)
    facts[_wrong("input")] = [look.fault or fault for fault, look in faults]
    facts["unusual"] = [look.unusual or _NOTHING for look in looks]


def _has_columns(needed: list[str]) -> Rule:
    return Rule(
        gxe.ExpectTableColumnsToMatchSet(column_set=needed, exact_match=False),
        f"The table must have the columns {' and '.join(needed)}",
        "Rename or add the columns and register the expert again.",
    )


def _has_rows() -> Rule:
    return Rule(
        gxe.ExpectTableRowCountToBeBetween(min_value=1, max_value=MAXIMUM_ROWS),
        f"The table must have 1 to {MAXIMUM_ROWS:,} rows",
        "Give labelled examples of the task.",
    )


def _row_rules(kind: ModelKind, rules: Mapping[str, Requirement]) -> Iterator[Rule]:
    for name, rule in rules.items():
        holds = gxe.ExpectColumnValuesToBeInSet(column=_wrong(name), value_set=[_NOTHING])
        yield Rule(holds, rule.must, rule.remedy, quoted=False)
    yield Rule(
        gxe.ExpectColumnValuesToBeUnique(column="key"),
        "Every input should be there once",
        "A repeated row counts once; drop the copies.",
        critical=False,
        show_values=False,
        may_be_missing=True,  # The rule on inputs counts unreadable ones.
    )
    yield Rule(
        ExpectKeysToHaveOneValue(key_column="key", value_column="target"),
        "The same input should always have the same target",
        "The first one counts; decide which is right and drop the others.",
        critical=False,
    )
    if kind.reads_images:
        yield Rule(
            gxe.ExpectColumnValuesToBeInSet(column="unusual", value_set=[_NOTHING]),
            "Every image should be one picture without transparency",
            "The first frame is taken, and the colours that lie under transparent parts, as "
            "transformers does; make sure that the expert was trained so.",
            critical=False,
            quoted=False,
        )


def _class_rules(labels: Sequence[str]) -> Iterator[Rule]:
    yield Rule(
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="target",
            value_set=list(labels),
            row_condition=Column("side") == "gate",
        ),
        "Every class should occur among the gate examples",
        "What has no example cannot be judged: add some.",
        critical=False,
    )
    yield Rule(
        ExpectLargestClassShareToBeAtMost(column="target", maximum=LARGEST_CLASS),
        f"No class should have more than {LARGEST_CLASS:.0%} of the rows",
        "Accuracy says little on such data: choose macro-f1 for this task.",
        critical=False,
    )


def _split_rules(policy: GatePolicy, task: str) -> Iterator[Rule]:
    yield Rule(
        ExpectKeysToHaveOneValue(key_column="key", value_column="side"),
        "Every input must be on one side of the split only",
        "What was learned from proves nothing: drop such rows from one side.",
    )
    yield _has_side("calibration", MINIMUM_CALIBRATION, critical=True)
    yield _has_side("calibration", ENOUGH_CALIBRATION, critical=False)
    rule = policy.for_task(task)
    fewest = max(rule.minimum_examples, fewest_examples(rule.margin, policy.confidence))
    yield _has_side("gate", fewest, critical=policy.inconclusive == "reject")


def _has_side(side: str, minimum: int, *, critical: bool) -> Rule:
    count = gxe.ExpectColumnUniqueValueCountToBeBetween(
        column="key",
        min_value=minimum,
        max_value=MAXIMUM_ROWS,
        row_condition=Column("side") == side,
    )
    must = (
        f"There {'must' if critical else 'should'} be at least {minimum} different {side} examples"
    )
    return Rule(count, must, "Add examples of the task.", critical=critical)
