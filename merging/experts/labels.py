"""What the cells of a label column mean: the name of a class, or its index.

A number can be either. Where it is the index of one class and the name of another, nothing in the
table says which is meant, so it is not read at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd

from merging.errors import InvalidInput

_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?")
_WORDS = {
    True: {"true", "t", "yes", "y", "1"},
    False: {"false", "f", "no", "n", "0"},
}
_RESAVE = "Correct id2label and label2id in the model's configuration and save it again."


@dataclass(frozen=True)
class Label:
    """One cell.

    Attributes:
        index: Class index; None where the cell is empty or has no one meaning.
        unknown: The value, where it is neither a name nor an index.
        ambiguous: Both readings, where there are two.
    """

    index: int | None = None
    unknown: str = ""
    ambiguous: str = ""


@dataclass(frozen=True)
class _Cell:
    value: Any
    by_name: int | None
    by_index: int | None


def read_labels(
    values: Iterable[Any],
    names: Sequence[str],
    *,
    as_written: bool = False,
    class_names: Sequence[str] | None = None,
    settled: bool = False,
) -> list[Label]:
    """Reads a label column.

    Args:
        values: Names as text, indices as any kind of number, or nothing.
        names: Label names by class index.
        as_written: A number has no type, as in CSV: what fits the whole column is what is meant.
        class_names: Names by index that the table itself gives; then every number is an index.
        settled: A number that could be either is an index, as it was before anybody asked.

    Raises:
        InvalidInput: Two classes have one name, or the table's names are not the model's.
    """
    check_names(names)
    if class_names is not None:
        _check_class_names(class_names, names)
    reader = _Reader(names, as_written=as_written, indices=class_names is not None)
    cells = [None if is_missing(value) else reader.cell(value) for value in values]
    labels = reader.labels(cells)
    if settled:
        return [
            Label(cell.by_index) if cell is not None and label.ambiguous else label
            for cell, label in zip(cells, labels, strict=True)
        ]
    return labels


def check_names(names: Sequence[str]) -> None:
    """Raises InvalidInput where two classes have one name, or a name is no text."""
    known: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in known:
            found = f"{name!r:.80} for classes {known[name]} and {index}"
        elif any(map(_is_surrogate, name)):
            found = f"half of a character pair in {name!r:.80}, the name of class {index}"
        else:
            known[name] = index
            continue
        raise InvalidInput(
            where="label names of the expert",
            expected="another name for every class",
            found=found,
            remedy=_RESAVE,
        )


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def similar_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only by case or space."""
    known: dict[str, str] = {}
    return [
        (first, name)
        for name in names
        if (first := known.setdefault(_plain(name), name)) is not name
    ]


def is_missing(value: Any) -> bool:
    """Whether a cell is empty, in any of the ways that pandas and Arrow write it."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    return isinstance(value, float | np.floating | Decimal) and math.isnan(value)


class _Reader:
    def __init__(self, names: Sequence[str], *, as_written: bool, indices: bool) -> None:
        self.names = names
        self.as_written = as_written
        self.indices = indices
        self.by_text = {name: index for index, name in enumerate(names)}
        self.by_number: dict[Decimal, int] = {}
        for index, name in enumerate(names):
            if (number := _number(name)) is not None:
                self.by_number.setdefault(number, index)
        self.by_word = {
            truth: next((i for i, name in enumerate(names) if _plain(name) in words), None)
            for truth, words in _WORDS.items()
        }
        self.by_plain = {_plain(name): name for name in reversed(names)}

    def cell(self, value: Any) -> _Cell:
        """What a value would be as a name, and as an index."""
        if self.as_written and value in ("True", "False") and value not in self.by_text:
            value = value == "True"
        if isinstance(value, bool | np.bool_):
            return _Cell(value, self.by_word[bool(value)], self._index(Decimal(int(value))))
        number = _number(value)
        text = self.by_text.get(value) if isinstance(value, str) else None
        if number is None or (text is not None and not self.as_written):
            return _Cell(value, text, None)
        by_name = self.by_number.get(number) if text is None else text
        return _Cell(value, None if self.indices else by_name, self._index(number))

    def labels(self, cells: Sequence[_Cell | None]) -> list[Label]:
        """Decides between the two for each cell, with a look at the others."""
        there = [cell for cell in cells if cell is not None]
        only_name = any(cell.by_index is None and cell.by_name is not None for cell in there)
        only_index = any(cell.by_name is None and cell.by_index is not None for cell in there)
        mixed = only_name and only_index and bool(self.by_number)
        whole = ""  # How the whole column is read, where that follows from it.
        if self.as_written and only_name != only_index:
            whole = "name" if only_name else "index"
        return [Label() if cell is None else self._label(cell, whole, mixed) for cell in cells]

    def _label(self, cell: _Cell, whole: str, mixed: bool) -> Label:
        name, index = cell.by_name, cell.by_index
        if name is None and index is None:
            return Label(unknown=self._unknown(cell.value))
        if name is None and mixed:
            return Label(ambiguous=f"{cell.value!r:.40} is an index, among names that are numbers")
        if name is not None and index is not None and name != index and not whole:
            return Label(
                ambiguous=f"{cell.value!r:.40} is the name of class {name} and the index of "
                f"{self.names[index]!r:.40}"
            )
        if whole == "index" or name is None:
            return Label(index)
        return Label(name)

    def _index(self, number: Decimal) -> int | None:
        whole = number == number.to_integral_value() and 0 <= number < len(self.names)
        return int(number) if whole else None

    def _unknown(self, value: Any) -> str:
        shown = f"{value!r:.60}"
        meant = self.by_plain.get(_plain(value)) if isinstance(value, str) else None
        return shown if meant is None else f"{shown}, which is written {meant!r:.60} there"


def _check_class_names(given: Sequence[str], names: Sequence[str]) -> None:
    defaults = [f"LABEL_{index}" for index in range(len(names))]  # They say nothing.
    if list(given) != list(names) and (list(names) != defaults or len(given) != len(names)):
        differ = [
            f"class {index} is {first!r:.60} in the table and {second!r:.60} in the model"
            for index, (first, second) in enumerate(zip(given, names, strict=False))
            if first != second
        ]
        found = differ[0] if differ else f"{len(given)} classes in the table, {len(names)} in it"
        raise InvalidInput(
            where="label names of the examples table (its ClassLabel)",
            expected="those of the model's id2label, in their order",
            found=found,
            remedy="Write the labels as text, or correct id2label and save the model again.",
        )


def _number(value: Any) -> Decimal | None:
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, Number | np.number) and not isinstance(value, complex):
        text = f"{value}" if not isinstance(value, int) or abs(value) < 10**40 else ""
    else:
        return None
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()
