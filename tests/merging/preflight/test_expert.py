from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles
from merging.kinds import ModelKind
from merging.preflight.base import check_base_names
from merging.preflight.expert import check_expert
from merging.preflight.mismatch import Mismatch
from tests.merging.tiny import bert_config

Copy = Callable[[Path], Path]


def check(base: Path, expert: Path) -> tuple[Mismatch, ...]:
    files = ExpertFiles(expert)
    return check_expert(Checkpoint.open(base), files, ModelKind.TEXT_CLASSIFIER)


def test_a_good_expert_passes(text_base: Path, text_expert_directories: tuple[Path, ...]) -> None:
    assert check(text_base, text_expert_directories[0]) == ()


def change_tensor(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def missing(t: dict[str, torch.Tensor]) -> None:
    t.pop(QUERY)


def extra(t: dict[str, torch.Tensor]) -> None:
    t["bert.encoder.layer.7.attention.self.query.weight"] = torch.zeros(2, 2)


def misshapen(t: dict[str, torch.Tensor]) -> None:
    t[QUERY] = torch.zeros(3, 16)


def not_finite(t: dict[str, torch.Tensor]) -> None:
    t[QUERY][0, 0] = float("nan")


def enormous(t: dict[str, torch.Tensor]) -> None:
    t[QUERY] *= 1e6


def another_base(t: dict[str, torch.Tensor]) -> None:
    """The same architecture, trained from another start."""
    other = BertForSequenceClassification(bert_config(num_labels=3)).state_dict()
    t.update({name: other[name].clone() for name in t if name.startswith("bert.")})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (missing, "model"),
        (extra, "encoder.layer.7.attention.self.query.weight"),
        (misshapen, "encoder.layer.0.attention.self.query.weight"),
        (not_finite, "encoder.layer.0.attention.self.query.weight"),
        (enormous, "task vector"),
        (another_base, "task vector"),
    ],
)
def test_wrong_tensors_are_named(
    text_base: Path,
    text_expert_directories: tuple[Path, ...],
    copy_of: Copy,
    change: Callable[[dict[str, torch.Tensor]], None],
    named: str,
) -> None:
    expert = copy_of(text_expert_directories[0])
    change_tensor(expert, change)
    assert named in [m.tensor for m in check(text_base, expert)]


@pytest.mark.parametrize(
    "change",
    [
        {"problem_type": "multi_label_classification"},
        {"problem_type": "regression", "id2label": {"0": "stars"}},
    ],
)
def test_a_classifier_that_does_not_give_one_label_is_named(
    text_base: Path,
    text_expert_directories: tuple[Path, ...],
    copy_of: Copy,
    change: dict[str, object],
) -> None:
    expert = copy_of(text_expert_directories[0])
    config = json.loads((expert / "config.json").read_text())
    (expert / "config.json").write_text(json.dumps({**config, **change}))
    (mismatch,) = check(text_base, expert)
    assert str(change["problem_type"]) in mismatch.found


def test_another_architecture_is_named(
    text_base: Path, text_expert_directories: tuple[Path, ...], copy_of: Copy
) -> None:
    expert = copy_of(text_expert_directories[0])
    config = json.loads((expert / "config.json").read_text())
    config["num_attention_heads"] = 4
    (expert / "config.json").write_text(json.dumps(config))
    assert [m.tensor for m in check(text_base, expert)] == ["config.num_attention_heads"]


def test_a_task_vector_of_zero_is_refused(
    text_base: Path, text_expert_directories: tuple[Path, ...], copy_of: Copy
) -> None:
    expert = copy_of(text_expert_directories[0])
    base = load_file(text_base / "model.safetensors")
    change_tensor(expert, lambda t: t.update({f"bert.{n}": v for n, v in base.items()}))
    (mismatch,) = check(text_base, expert)
    assert mismatch.tensor == "task vector"
    assert "apart from its head" in mismatch.found
    assert "train some of the backbone" in mismatch.remedy


def test_a_pickle_is_refused(
    text_base: Path, text_expert_directories: tuple[Path, ...], copy_of: Copy
) -> None:
    expert = copy_of(text_expert_directories[0])
    (expert / "model.safetensors").rename(expert / "pytorch_model.bin")
    (mismatch,) = check(text_base, expert)
    assert "pytorch_model.bin" in mismatch.found


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("text-classifier", "tokenizer.json"),
        ("image-classifier", "preprocessor_config.json"),
        ("generator", "model.safetensors"),
        ("generator", "config.json"),
    ],
)
def test_a_base_that_is_not_whole_is_refused_by_its_files(kind: str, missing: str) -> None:
    whole = {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"}
    check_base_names(whole, ModelKind(kind), "s3://bucket/base")
    with pytest.raises(InvalidInput, match="s3://bucket/base: expected a checkpoint"):
        check_base_names(whole - {missing}, ModelKind(kind), "s3://bucket/base")
