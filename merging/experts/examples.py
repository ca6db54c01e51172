"""Examples of a task: a table that an expert brings, and the rows in one fixed order.

Rows are known by a hash of their input, so the same row always falls on the same side of the split
into calibration and gate, and a row that comes twice is kept once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from merging.errors import InvalidInput
from merging.kinds import ModelKind

Input = str | tuple[str, str] | bytes
Target = int | str | None

CALIBRATION_SHARE = 0.25  # Share of a table's rows that calibrate, where it has no `split` column.


@dataclass(frozen=True)
class Examples:
    """Rows of one task, sorted by content key.

    Attributes:
        inputs: Text, (text, text pair), encoded image, or the input text of a generation.
        targets: Class index, or target text of a generation; None where unlabelled.
        keys: SHA-256 of each input in hex, unique.
        labels: Label names by class index; empty for generation.
    """

    kind: ModelKind
    inputs: tuple[Input, ...]
    targets: tuple[Target, ...]
    keys: tuple[str, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in it (inputs through their keys)."""
        content = [self.kind, list(self.labels), list(zip(self.keys, self.targets, strict=True))]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def take(self, indices: Iterable[int]) -> Examples:
        """The examples at `indices`, in that order."""
        chosen = list(indices)
        return Examples(
            kind=self.kind,
            inputs=tuple(self.inputs[i] for i in chosen),
            targets=tuple(self.targets[i] for i in chosen),
            keys=tuple(self.keys[i] for i in chosen),
            labels=self.labels,
        )

    def sample(self, size: int, seed: int) -> Examples:
        """At most `size` examples, chosen by a hash of key and seed; order kept."""

        def rank(index: int) -> bytes:
            return hashlib.sha256(f"{seed}{self.keys[index]}".encode()).digest()

        ranked = sorted(range(len(self)), key=rank)
        return self.take(sorted(ranked[:size]))


@dataclass(frozen=True)
class Split:
    """The two sides of a table; no row is on both."""

    calibration: Examples
    gate: Examples


def read_table(path: Path) -> pd.DataFrame:
    """An examples table; images given as relative paths are read in as bytes.

    Raises:
        InvalidInput: Another format than Parquet or JSON Lines, a malformed file, or an image path
            that is missing or leaves the table's folder.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix in (".jsonl", ".ndjson"):
            lines = path.read_text(encoding="utf-8").splitlines()
            table = pd.DataFrame([json.loads(line) for line in lines if line.strip()])
        else:
            raise ValueError(f"a file ending in {path.suffix!r}")
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(
            where=str(path),
            expected="an examples table as .parquet or .jsonl",
            found=str(error)[:300],
            remedy="Write it with pandas (to_parquet, or to_json(orient='records', lines=True)).",
        ) from error
    if "image" in table.columns:
        table["image"] = [_image_bytes(value, path) for value in table["image"]]
    return table


def split_examples(table: pd.DataFrame, kind: ModelKind, labels: Sequence[str]) -> Split:
    """Both sides of a table, by its `split` column or else by a hash of the content.

    Args:
        table: Columns `text[, text_pair], label`, `image, label` or `input, target`, and perhaps
            `split` with "calibration" or "gate".
        kind: The kind of model.
        labels: Label names by class index; the table may use names or indices.

    Raises:
        InvalidInput: A column is missing, a value has the wrong type, a label is unknown, or a gate
            example has no label.
    """
    sides: dict[str, dict[str, tuple[Input, Target]]] = {"calibration": {}, "gate": {}}
    seen: set[str] = set()
    for key, row_input, target, side in _rows(table, kind, list(labels)):
        if key not in seen:
            seen.add(key)
            sides[side][key] = (row_input, target)
    unlabelled = sum(target is None for _, target in sides["gate"].values())
    if unlabelled:
        raise _wrong(kind, "a label on every gate example", f"{unlabelled} without")
    calibration, gate = (
        Examples(
            kind=kind,
            inputs=tuple(side[key][0] for key in sorted(side)),
            targets=tuple(side[key][1] for key in sorted(side)),
            keys=tuple(sorted(side)),
            labels=tuple(labels),
        )
        for side in (sides["calibration"], sides["gate"])
    )
    return Split(calibration, gate)


def _rows(
    table: pd.DataFrame, kind: ModelKind, labels: list[str]
) -> Iterator[tuple[str, Input, Target, str]]:
    needed = [kind.input_column, kind.target_column]
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise _wrong(kind, f"columns {needed}", f"{list(table.columns)}")
    pairs = table[kind.pair_column] if kind.pair_column in table.columns else [None] * len(table)
    splits = table["split"] if "split" in table.columns else [None] * len(table)
    columns = zip(table[needed[0]], pairs, table[needed[1]], splits, strict=True)
    for number, (value, pair, target, split) in enumerate(columns):
        row_input = _input(value, pair, kind, number)
        key = content_key(row_input)
        if split is None:
            share = int(key[:8], 16) / 2**32
            split = "calibration" if share < CALIBRATION_SHARE else "gate"
        elif split not in ("calibration", "gate"):
            raise _wrong(kind, "split 'calibration' or 'gate'", f"{split!r} in row {number}")
        yield key, row_input, _target(target, kind, labels, number), split


def content_key(value: Input) -> str:
    """SHA-256 of an input, in hex."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _input(value: Any, pair: Any, kind: ModelKind, number: int) -> Input:
    if kind.reads_images:
        if isinstance(value, bytes) and value:
            return value
    elif isinstance(value, str) and value:
        return (value, pair) if isinstance(pair, str) else value
    wanted = "bytes" if kind.reads_images else "text"
    expected = f"non-empty {wanted} in column {kind.input_column!r}"
    raise _wrong(kind, expected, f"{value!r:.80} in row {number}")


def _target(value: Any, kind: ModelKind, labels: list[str], number: int) -> Target:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return None
    if not kind.has_head:
        if not isinstance(value, str):
            raise _wrong(
                kind, f"text in column {kind.target_column!r}", f"{value!r:.80} in row {number}"
            )
        return value
    if isinstance(value, str) and value in labels:
        return labels.index(value)
    try:
        index = int(value) if float(value) == int(value) else -1
    except (TypeError, ValueError):
        index = -1
    if not 0 <= index < len(labels):
        expected = f"one of the labels {labels[:30]} or an index below {len(labels)}"
        raise _wrong(kind, expected, f"{value!r:.80} in row {number}")
    return index


def _image_bytes(value: Any, table: Path) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    path = (table.parent / str(value)).resolve()
    if not path.is_file() or table.parent.resolve() not in path.parents:
        raise InvalidInput(
            where=str(table),
            expected="images as bytes, or as paths of files beside the table",
            found=f"{str(value)[:120]!r}",
            remedy="Put the images' bytes into the table.",
        )
    return path.read_bytes()


def _wrong(kind: ModelKind, expected: str, found: str) -> InvalidInput:
    return InvalidInput(
        where=f"examples table of a {kind}",
        expected=expected,
        found=found,
        remedy="Correct the table and register the expert again.",
    )
