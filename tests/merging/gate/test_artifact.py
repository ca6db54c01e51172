"""A merged model's files are refused when they cannot be what they claim."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merging.gate.artifact import check_latency, check_weights
from merging.kinds import ModelKind

KIND = ModelKind.TEXT_CLASSIFIER
CONFIG = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 4}


@pytest.fixture
def write(tmp_path):
    def write(name: str, **changes: torch.Tensor) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        tensors = {"a.weight": torch.ones(2, 3), "b.bias": torch.ones(3)} | changes
        save_file(
            {n.replace("__", "."): t for n, t in tensors.items()}, folder / "model.safetensors"
        )
        return folder

    return write


def verdicts(checks):
    return [check.verdict for check in checks]


def test_a_sound_model_passes(write):
    merged = write("merged", **{"a.weight": torch.zeros(2, 3)})
    assert verdicts(check_weights(write("base"), merged, write("champion"), KIND)) == ["passed"] * 3
    assert len(check_weights(write("base2"), merged, None, KIND)) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_fail(write, bad):
    merged = write("merged", **{"b.bias": torch.tensor([1.0, bad, 1.0])})
    shape, finite = check_weights(write("base"), merged, None, KIND)
    assert (shape.verdict, finite.verdict) == ("passed", "failed")
    assert "b.bias" in finite.sentence


@pytest.mark.parametrize("changes", [{"b.bias": torch.ones(4)}, {"c.bias": torch.ones(3)}])
def test_other_tensors_than_the_bases_fail(write, changes):
    shape, _ = check_weights(write("base"), write("merged", **changes), None, KIND)
    assert shape.verdict == "failed"
    assert next(iter(changes)) in shape.sentence


def test_the_champion_once_more_fails(write):
    *_, differs = check_weights(write("base"), write("merged"), write("champion"), KIND)
    assert differs.verdict == "failed"


def test_latency_is_judged_by_its_median():
    assert check_latency([1.0, 1.0, 9.0], [1.0, 1.0, 1.0], 1.5).verdict == "passed"
    assert check_latency([2.0, 2.0, 1.0], [1.0, 1.0, 1.0], 1.5).verdict == "failed"


@pytest.mark.parametrize(("candidate", "champion"), [([], [1.0]), ([1.0], []), ([1.0], [0.0])])
def test_latency_that_was_not_measured_fails(candidate, champion):
    assert check_latency(candidate, champion, 1.5).verdict == "failed"
