"""A policy that cannot mean what its author thinks is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from merging.gate import GatePolicy


def test_the_defaults_are_valid_and_survive_plain_values():
    policy = GatePolicy()
    assert GatePolicy.model_validate(policy.model_dump(mode="json")) == policy


@pytest.mark.parametrize(
    "values",
    [
        {"margin": 0},
        {"margin": float("nan")},
        {"margin": 3},  # points instead of a share
        {"confidence": 95},
        {"confidence": 0.5},
        {"minimum_examples": 0},
        {"metric": "f1"},
        {"inconclusive": "pass"},
        {"margine": 0.02},
        {"retention_floor_old": 0.8},
        {"tasks": {"reviews": {"margine": 0.02}}},
        {"tasks": {"reviews": {"margin": 2}}},
        {"tasks": {"reviews": {"retention_floor_old": 0.9}}},
        {"tasks": {"reviews": {"confidence": 0.9}}},
    ],
)
def test_what_makes_no_sense_is_refused(values):
    with pytest.raises(ValidationError):
        GatePolicy(**values)


def test_a_task_inherits_what_it_does_not_change():
    policy = GatePolicy(margin=0.02, tasks={"icd10": {"metric": "macro-f1"}})
    assert policy.for_task("icd10").margin == 0.02
    assert policy.for_task("icd10").metric == "macro-f1"
    assert policy.for_task("other").metric == "accuracy"
