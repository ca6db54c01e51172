"""The page of the method tells of every architecture that the installed transformers has."""

from __future__ import annotations

import re

import pytest

from benchmarks.architectures import MARKS, PAGE
from benchmarks.small_configs import architectures
from merging.kinds import ModelKind


def shown(kind: ModelKind) -> list[tuple[str, str]]:
    """Each outcome of a kind's table, with an architecture that it is true of."""
    tables = PAGE.read_text().partition(MARKS[0])[2].partition(MARKS[1])[0]
    table = next(t for t in tables.split("\n\n") if t.strip().startswith(f"| {kind} |"))
    rows = (line.strip("| ").rsplit(" | ", 1) for line in table.strip().splitlines()[2:])
    return [(outcome, name) for outcome, names in rows for name in names.split(", ")]


@pytest.mark.parametrize("kind", ModelKind)
def test_the_table_names_every_architecture_once(kind: ModelKind) -> None:
    assert sorted(name for _, name in shown(kind)) == sorted(
        one.label for one in architectures(kind)
    ), "python -m benchmarks.architectures --write"


@pytest.mark.parametrize("kind", ModelKind)
def test_none_is_silently_wrong_and_none_crashes(kind: ModelKind) -> None:
    outcomes = {outcome for outcome, _ in shown(kind)}
    assert all(re.match(r"(exact|refused|absent) \(\d+\): \S", outcome) for outcome in outcomes)
