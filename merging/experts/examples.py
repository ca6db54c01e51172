"""Examples of a task: a table that an expert brings, and the rows in one fixed order.

Rows are known by a hash of their input, so the same row always falls on the same side of the split
into calibration and gate, and a row that comes twice is kept once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from merging.errors import InvalidInput
from merging.experts.rows import SIDES, Input, Row, Target, read_rows, requirements
from merging.kinds import ModelKind


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


def split_examples(
    table: pd.DataFrame, kind: ModelKind, labels: Sequence[str], *, settled: bool = False
) -> Split:
    """Both sides of a table, by its `split` column or else by a hash of the content.

    Args:
        table: As :func:`merging.experts.rows.read_rows` takes it.
        kind: The kind of model.
        labels: Label names by class index; the table may use names or indices.
        settled: Whether it is of an expert that was merged already. What today's rules would refuse
            is then read as it was, or left out.

    Raises:
        InvalidInput: A column is missing, or a row does not keep one of the requirements.
    """
    rows = read_rows(table, kind, labels, settled=settled)
    if settled:
        rows = [row for row in rows if not row.faults]
    else:
        _check(rows, kind, labels)
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(str(row.key), row)
    calibration, gate = (
        _examples([row for row in first.values() if row.side == side], kind, labels)
        for side in SIDES
    )
    return Split(calibration, gate)


def _examples(rows: Sequence[Row], kind: ModelKind, labels: Sequence[str]) -> Examples:
    read = sorted((str(row.key), row.input, row.target) for row in rows if row.input is not None)
    return Examples(
        kind=kind,
        inputs=tuple(row_input for _, row_input, _ in read),
        targets=tuple(target for _, _, target in read),
        keys=tuple(key for key, _, _ in read),
        labels=tuple(labels),
    )


def _check(rows: Sequence[Row], kind: ModelKind, labels: Sequence[str]) -> None:
    for name, rule in requirements(kind, labels).items():
        wrong = {
            number: row.faults[name] for number, row in enumerate(rows, 1) if name in row.faults
        }
        if wrong:
            number, fault = next(iter(wrong.items()))
            raise InvalidInput(
                where=f"examples table of a {kind}",
                expected=f"{rule.must[0].lower()}{rule.must[1:]}".replace(" must ", " to ", 1),
                found=f"{fault} in row {number} ({len(wrong)} of {len(rows)} rows)",
                remedy=rule.remedy,
            )
