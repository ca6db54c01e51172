"""The build key: the same inputs meet the same key, other inputs another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from infra.families import Family
from infra.storage.manifest import MergedExpert
from merging.experts.expert import Expert
from merging.models.folder import MergedFolder
from merging.settings import MergeSettings
from tasks.values import Base, Build, Deployed, Member

FAMILY = Family(
    name="f",
    kind="text-classifier",
    base="s3://bucket/base",
    bucket="bucket",
    merge=MergeSettings(granularity="tensor"),
)
BASE = Base(Path("base"), "digest-of-base")


def member(task: str, version: int = 1) -> Member:
    record = MergedExpert(
        task=task, name=f"f-{task}", version=version, source="s3://b/x", digest=f"{task}{version}"
    )
    return Member(record, Expert.__new__(Expert))


def deployed(*tasks: str, sequence: int = 1) -> Deployed:
    class Entry:
        version = sequence

    Entry.sequence = Entry.deployment = sequence
    members = tuple(member(task) for task in tasks)
    return Deployed(Entry, None, MergedFolder(Path("champion")), members)  # type: ignore[arg-type]


def build(**changes: object) -> Build:
    values = {
        "family": FAMILY,
        "rung": "relearn",
        "base": BASE,
        "deployed": deployed("a"),
        "arrivals": (member("b"),),
    }
    return Build(**{**values, **changes})  # type: ignore[arg-type]


def test_the_same_inputs_have_the_same_key():
    assert build().key == build().key


@pytest.mark.parametrize(
    "changes",
    [
        {"rung": "chain"},
        {"base": replace(BASE, digest="another")},
        {"deployed": None},
        {"deployed": deployed("a", sequence=2)},
        {"arrivals": (member("b", version=2),)},
        {"arrivals": (member("b"), member("c"))},
        {
            "family": FAMILY.model_copy(
                update={"merge": FAMILY.merge.model_copy(update={"seed": 1})}
            )
        },
        {
            "family": FAMILY.model_copy(
                update={"gate": FAMILY.gate.model_copy(update={"margin": 0.1})}
            )
        },
    ],
    ids=["rung", "base", "first", "champion", "content", "arrivals", "settings", "policy"],
)
def test_any_other_input_has_another_key(changes):
    assert build(**changes).key != build().key


@pytest.mark.parametrize(
    "changes",
    [
        {"arrivals": (replace(member("b"), releases=1),)},
        {
            "arrivals": (
                replace(
                    member("b"), record=member("b").record.model_copy(update={"source": "s3://b/y"})
                ),
            )
        },
        {
            "family": FAMILY.model_copy(
                update={"gate": FAMILY.gate.model_copy(update={"margin": 0.1})}
            )
        },
    ],
    ids=["released", "source", "policy"],
)
def test_what_decides_on_a_model_does_not_make_another_one(changes):
    assert build(**changes).key != build().key
    assert build(**changes).merge_key == build().merge_key


def test_a_warning_decides_nothing():
    gate = FAMILY.gate.model_copy(update={"decision_budget": 7})
    assert build(family=FAMILY.model_copy(update={"gate": gate})).key == build().key


def test_another_library_may_make_another_model(monkeypatch):
    before = build().merge_key
    monkeypatch.setattr("tasks.values.version", lambda name: f"another {name}")
    assert build().merge_key != before


def test_columns_are_the_champions_experts_and_then_the_arrivals():
    both = build(deployed=deployed("a", "b"), arrivals=(member("b", version=2), member("c")))

    assert [m.task for m in both.kept] == ["a"], "an arrival replaces the expert of its task"
    assert [m.task for m in both.members] == ["a", "b", "c"]


def test_the_row_rung_changes_the_granularity_alone():
    rows = build(rung="relearn-row").settings
    assert rows.granularity == "row"
    assert rows.model_copy(update={"granularity": FAMILY.merge.granularity}) == FAMILY.merge
