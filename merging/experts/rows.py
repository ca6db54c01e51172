"""The rows of an examples table: each is read, or what is wrong with it is said.

This is the one rule for examples. Learning and the gate take the rows that it gives, and the data
contract counts what it finds wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from merging.errors import InvalidInput
from merging.experts.labels import is_missing, read_labels
from merging.experts.tables import AS_WRITTEN, CLASS_NAMES
from merging.kinds import ModelKind

Input = str | tuple[str, str] | bytes
Target = int | str | None

MAXIMUM_CHARACTERS = 100_000
CALIBRATION_SHARE = 0.25  # Share of a table's rows that calibrate, where it has no `split` column.
SIDES = ("calibration", "gate")


@dataclass(frozen=True)
class Requirement:
    """What every row has to keep.

    Attributes:
        must: The beginning of a sentence.
        remedy: What to do about rows that do not, a sentence.
    """

    must: str
    remedy: str


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        key: SHA-256 of the input in hex; None where there is none.
        input: Text, (text, text pair) or encoded image; None where it cannot be read.
        target: Class index, or target text; None where there is none or it cannot be read.
        side: `calibration` or `gate`; None where it cannot be read.
        faults: What is wrong with it, by the name of a requirement.
    """

    key: str | None
    input: Input | None
    target: Target
    side: str | None
    faults: Mapping[str, str]


def requirements(kind: ModelKind, labels: Sequence[str]) -> dict[str, Requirement]:
    """What rows for this kind of model have to keep, by name."""
    correct = "Correct these rows and register the expert again."
    characters = f"a text of 1 to {MAXIMUM_CHARACTERS:,} characters"
    what = "image must be readable" if kind.reads_images else f"input must be {characters}"
    rules = {"input": Requirement(f"Every {what}", correct)}
    if kind.has_head:
        some = ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
        rules["target"] = Requirement(
            f"Every label must be one of the expert's {len(labels)} ({some})",
            "Use the names in the expert's id2label, or their indices.",
        )
        rules["reading"] = Requirement(
            "Every label must have one meaning",
            "Write every label as text, with its name in id2label; in CSV, where a number has no "
            "type, give the classes names that are no numbers, or write Parquet or JSON Lines.",
        )
    else:
        rules["target"] = Requirement(f"Every target must be {characters}", correct)
    rules["answer"] = Requirement("Every gate example must have a target", correct)
    rules["side"] = Requirement(
        "Every value of split must be calibration or gate",
        "Correct the column, or drop it to have the rows split by their content.",
    )
    return rules


def read_rows(
    table: pd.DataFrame, kind: ModelKind, labels: Sequence[str], *, settled: bool = False
) -> list[Row]:
    """Reads every row of a table.

    Args:
        table: As `merging.experts.tables.read_table` gives it: columns `text[, text_pair], label`,
            `image, label` or `input, target`, and perhaps `split`.
        kind: The kind of model.
        labels: Label names by class index; the table may use names or indices.
        settled: See :func:`merging.experts.labels.read_labels`.

    Raises:
        InvalidInput: A column is missing, or label names contradict each other.
    """
    needed = [kind.input_column, kind.target_column]
    if missing := [column for column in needed if column not in table.columns]:
        raise InvalidInput(
            where=f"examples table of a {kind}",
            expected=f"columns {' and '.join(needed)}",
            found=f"none named {' or '.join(missing)} among {list(table.columns)[:20]}",
            remedy="Rename or add the columns and register the expert again.",
        )
    nothing = [None] * len(table)
    pairs = table[kind.pair_column] if kind.pair_column in table.columns else nothing
    sides = table["split"] if "split" in table.columns else nothing
    answers = _classes(table, kind, labels, settled) if kind.has_head else _texts(table, kind)
    return [
        _row(value, pair, answer, side if "split" in table.columns else _ANY, kind)
        for value, pair, answer, side in zip(
            table[kind.input_column], pairs, answers, sides, strict=True
        )
    ]


def content_key(value: Input) -> str:
    """SHA-256 of an input, in hex."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


_ANY = object()  # The side of a row whose table has no column `split`.
_Answer = tuple[Target, dict[str, str]]


def _row(value: Any, pair: Any, answer: _Answer, side: Any, kind: ModelKind) -> Row:
    target, faults = answer
    row_input: Input | None = None
    if kind.reads_images:
        if not isinstance(value, bytes) or not value:
            faults["input"] = _type(value)
        else:
            row_input = value
    elif fault := _text_fault(value) or _pair_fault(pair):
        faults["input"] = fault
    else:
        row_input = value if is_missing(pair) else (value, pair)
    key = None if row_input is None else content_key(row_input)
    if side is _ANY:
        side = None if key is None else _side_of(key)
    elif not isinstance(side, str) or side not in SIDES:
        faults["side"], side = f"{side!r:.40}", None
    if target is None and side == "gate" and not faults.keys() & {"target", "reading"}:
        faults["answer"] = "none"
    return Row(key, row_input, target, side, faults)


def _side_of(key: str) -> str:
    return SIDES[int(key[:8], 16) / 2**32 >= CALIBRATION_SHARE]


def _classes(
    table: pd.DataFrame, kind: ModelKind, labels: Sequence[str], settled: bool
) -> Iterator[_Answer]:
    read = read_labels(
        table[kind.target_column],
        labels,
        as_written=table.attrs.get(AS_WRITTEN, False),
        class_names=table.attrs.get(CLASS_NAMES),
        settled=settled,
    )
    for label in read:
        faults = {"target": label.unknown, "reading": label.ambiguous}
        yield label.index, {name: fault for name, fault in faults.items() if fault}


def _texts(table: pd.DataFrame, kind: ModelKind) -> Iterator[_Answer]:
    for value in table[kind.target_column]:
        fault = "" if is_missing(value) else _text_fault(value)
        yield ((None, {"target": fault}) if fault else (None if is_missing(value) else value, {}))


def _text_fault(value: Any) -> str:
    """What is wrong with a text, without any of it."""
    if not isinstance(value, str):
        return _type(value)
    if not value.strip():
        return "an empty text"
    return _size_fault(value)


def _pair_fault(value: Any) -> str:
    """What is wrong with a pair's second text, which may be empty or missing."""
    if is_missing(value):
        return ""
    return _size_fault(value) if isinstance(value, str) else f"a pair of a text and {_type(value)}"


def _size_fault(text: str) -> str:
    if len(text) > MAXIMUM_CHARACTERS:
        return f"{len(text):,} characters"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        return f"half of a character pair ({half}) at character {error.start + 1}"
    return ""


def _type(value: Any) -> str:
    if is_missing(value) or (isinstance(value, bytes) and not value):
        return "no value"
    return f"a value of type {type(value).__name__}"
