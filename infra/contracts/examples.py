"""The contract of an examples table, checked when an expert lands."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.row_conditions import Column
from PIL import Image, UnidentifiedImageError

from infra.contracts.checker import Rule, check_rules
from infra.contracts.expectations import (
    ExpectKeysToHaveOneValue,
    ExpectLargestClassShareToBeAtMost,
)
from infra.contracts.result import ContractResult
from merging.experts.examples import CALIBRATION_SHARE, content_key
from merging.gate import GatePolicy
from merging.gate.statistics import fewest_examples
from merging.kinds import ModelKind

MAXIMUM_ROWS = 1_000_000
MAXIMUM_CHARACTERS = 100_000
MAXIMUM_PIXELS = 50_000_000
MINIMUM_CALIBRATION = 8
ENOUGH_CALIBRATION = 64
LARGEST_CLASS = 0.9
_SIDES = ("calibration", "gate")
_ON_GATE = Column("side") == "gate"
_CORRECT = "Correct these rows and register the expert again."


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
        facts = _facts(table, kind, labels)
        rules += [*_input_rules(kind), *_target_rules(kind, labels), *_split_rules(policy, task)]
    facts.index = pd.RangeIndex(1, len(facts) + 1)
    return check_rules(f"examples of {task}" if task else "examples", facts, rules)


def _facts(table: pd.DataFrame, kind: ModelKind, labels: Sequence[str]) -> pd.DataFrame:
    """What the rules look at: a row per example, without the content itself.

    Columns `size` (characters or pixels, NaN where unreadable), `target` (label name, or length of
    the target text), `side`, `key`, beside the names of the table's own columns.
    """
    inputs = table[kind.input_column]
    pairs = table[kind.pair_column] if kind.pair_column in table else [None] * len(table)
    keys = [_key(value, pair) for value, pair in zip(inputs, pairs, strict=True)]
    sides = table["split"] if "split" in table else [_side(key) for key in keys]
    targets = table[kind.target_column]
    facts: dict[str, Sequence[Any]] = {str(c): [""] * len(table) for c in table.columns}
    facts |= {
        "key": keys,
        "size": [_size(value, kind) for value in inputs],
        "target": [_target(value, kind, labels) for value in targets],
        "side": list(sides),
    }
    return pd.DataFrame(facts)


def _key(value: Any, pair: Any) -> str | None:
    if not isinstance(value, str | bytes):
        return None
    if isinstance(pair, str) and isinstance(value, str):
        return content_key((value, pair))
    return content_key(value)


def _side(key: str | None) -> str | None:
    if key is None:
        return None
    return "calibration" if int(key[:8], 16) / 2**32 < CALIBRATION_SHARE else "gate"


def _size(value: Any, kind: ModelKind) -> float:
    if not kind.reads_images:
        return float(len(value.strip())) if isinstance(value, str) else math.nan
    try:
        with Image.open(io.BytesIO(value)) as image:  # This reads the header only.
            return float(image.width * image.height)
    except (UnidentifiedImageError, OSError, TypeError, Image.DecompressionBombError):
        return math.nan


def _target(value: Any, kind: ModelKind, labels: Sequence[str]) -> str | float | None:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if not kind.has_head:
        return float(len(value)) if isinstance(value, str) else -1.0
    if isinstance(value, str):
        return value
    whole = float(value) if isinstance(value, int | float) else math.nan
    return labels[int(whole)] if whole in range(len(labels)) else str(value)


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


def _input_rules(kind: ModelKind) -> Iterator[Rule]:
    if kind.reads_images:
        limit, must = (
            MAXIMUM_PIXELS,
            f"Every image must be readable and below {MAXIMUM_PIXELS:,} pixels",
        )
    else:
        limit, must = (
            MAXIMUM_CHARACTERS,
            f"Every text must have 1 to {MAXIMUM_CHARACTERS:,} characters",
        )
    between = gxe.ExpectColumnValuesToBeBetween(column="size", min_value=1, max_value=limit)
    yield Rule(between, must, _CORRECT)
    yield Rule(
        gxe.ExpectColumnValuesToBeUnique(column="key"),
        "Every input should be there once",
        "A repeated row counts once; drop the copies.",
        critical=False,
        show_values=False,
        may_be_missing=True,  # The rule above counts unreadable inputs.
    )


def _target_rules(kind: ModelKind, labels: Sequence[str]) -> Iterator[Rule]:
    yield Rule(
        gxe.ExpectColumnValuesToNotBeNull(column="target", row_condition=_ON_GATE),
        "Every gate example must have a target",
        _CORRECT,
    )
    yield Rule(
        ExpectKeysToHaveOneValue(key_column="key", value_column="target"),
        "The same input should always have the same target",
        "The first one counts; decide which is right and drop the others.",
        critical=False,
    )
    if not kind.has_head:
        yield Rule(
            gxe.ExpectColumnValuesToBeBetween(
                column="target", min_value=1, max_value=MAXIMUM_CHARACTERS
            ),
            f"Every target must be a text of 1 to {MAXIMUM_CHARACTERS:,} characters",
            _CORRECT,
            may_be_missing=True,
        )
        return
    yield Rule(
        gxe.ExpectColumnValuesToBeInSet(column="target", value_set=list(labels)),
        f"Every label must be one of the expert's {len(labels)} ({_some(labels)})",
        "Use the names in the expert's id2label, or their indices.",
        may_be_missing=True,
    )
    yield Rule(
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="target",
            value_set=list(labels),
            row_condition=_ON_GATE,
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
        gxe.ExpectColumnValuesToBeInSet(column="side", value_set=list(_SIDES)),
        "Every value of split must be calibration or gate",
        "Correct the column, or drop it to have the rows split by their content.",
    )
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


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
