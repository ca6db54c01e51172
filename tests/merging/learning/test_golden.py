"""Trajectories of a tiny merge, so that a change of the numbers is seen and not found later.

They were recorded on the CPU with one thread; the tolerance covers other builds of torch. After a
change that is meant to alter them: `UPDATE_GOLDEN=1 pytest tests/merging/learning/test_golden.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from merging.learning.learn import learn_coefficients
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet

GOLDEN = Path(__file__).parent / "golden.json"
PLAIN = {
    "objective": "experts",
    "granularity": "tensor",
    "tanh": True,
    "balanced": False,
    "initial": 0.3,
    "learning_rate": 0.05,
    "steps": 5,
    "batch_size": 8,
    "evaluate_every": 5,
    "calibration_size": 128,
}
CASES = {
    "labels": {"objective": "labels"},
    "experts": {"objective": "experts"},
    "both": {"objective": "both"},
    "entropy": {"objective": "entropy"},
    "row": {"granularity": "row", "steps": 9, "row_share": 0.45},
    "model": {"granularity": "model"},
    "heads": {"tune_heads": True},
    "without tanh": {"tanh": False},
    "groups of two": {"group_size": 2},
    "int8": {"storage": "int8"},
    "balanced": {"balanced": True},
    "tsv-m": {"preprocess": "tsv-m"},
    "iso-c": {"preprocess": "iso-c"},
}


@pytest.mark.parametrize("case", CASES)
def test_trajectory(
    case: str,
    text_set: ExpertSet,
    tmp_path: Path,
) -> None:
    settings = MergeSettings(**{**PLAIN, **CASES[case]})
    learned = learn_coefficients(
        text_set,
        settings,
        work=tmp_path,
        device=torch.device("cpu"),
    )
    found = [sum(record.losses.values()) for record in learned.history if record.losses]
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("UPDATE_GOLDEN"):
        recorded[case] = found
        GOLDEN.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    assert found == pytest.approx(recorded[case], rel=1e-3, abs=1e-5)
