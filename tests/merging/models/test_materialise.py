from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from merging.errors import InvalidInput, NotReproduced
from merging.experts.checkpoint import Checkpoint, digest_directory
from merging.experts.heads import Head
from merging.models.coefficients import Coefficients
from merging.models.evaluate import evaluate
from merging.models.folder import MergedFolder
from merging.models.materialise import materialise, verify
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import first

Merge = Callable[..., Coefficients]


def test_zero_coefficients_give_the_base(
    text_set: ExpertSet, merge_experts: Merge, tmp_path: Path
) -> None:
    merge_experts(text_set, tmp_path / "out", 0.0)
    base, merged = text_set.base, Checkpoint.open(tmp_path / "out" / "model")
    assert list(base.tensors) == list(merged.tensors)
    assert all(torch.equal(base.read(n), merged.read(n)) for n in base.tensors)


def test_one_expert_with_coefficient_one_gives_that_expert(
    text_set: ExpertSet, merge_experts: Merge, tmp_path: Path
) -> None:
    merge_experts(first(text_set, 1), tmp_path / "out", 1.0)
    expert = text_set.experts[0]
    gate = expert.split.gate
    device = torch.device("cpu")
    head = Head.load(tmp_path / "out/heads/task-0", "task-0")
    merged = evaluate(Backbone.open(tmp_path / "out/model", text_set.kind), head, gate, device)
    own = evaluate(text_set.backbone("task-0"), expert.head, gate, device)
    assert merged == own
    original = expert.files.checkpoint
    for name in (found := Checkpoint.open(tmp_path / "out" / "model")).tensors:
        torch.testing.assert_close(found.read(name), original.read(name), rtol=1e-6, atol=1e-7)


def test_the_same_inputs_give_the_same_bytes_and_load_with_transformers(
    text_set: ExpertSet, merge_experts: Merge, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        merge_experts(text_set, tmp_path / name, 0.3)
    assert digest_directory(tmp_path / "a") == digest_directory(tmp_path / "b")
    AutoModel.from_pretrained(tmp_path / "a" / "model")
    verify(text_set, MergedFolder(tmp_path / "a"))


def test_verify_finds_a_changed_weight(
    text_set: ExpertSet, merge_experts: Merge, tmp_path: Path
) -> None:
    merge_experts(text_set, tmp_path / "out", 0.3)
    weights = tmp_path / "out" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(NotReproduced, match=r"model\.safetensors"):
        verify(text_set, MergedFolder(tmp_path / "out"))


def test_coefficients_of_other_experts_are_refused(
    text_set: ExpertSet, merge_experts: Merge, tmp_path: Path
) -> None:
    coefficients = merge_experts(text_set, tmp_path / "out", 0.3)
    with pytest.raises(InvalidInput, match="columns"):
        materialise(first(text_set, 2), coefficients, {}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_heads_and_coefficients_come_back_as_saved(
    text_set: ExpertSet, merge_experts: Merge, tmp_path: Path
) -> None:
    coefficients = merge_experts(text_set, tmp_path / "out", 0.3)
    loaded = Coefficients.load(tmp_path / "out" / "coefficients.safetensors")
    assert loaded.digest == coefficients.digest
    head = Head.load(tmp_path / "out" / "heads" / "task-1", "task-1")
    assert head.digest == text_set.experts[1].head.digest
    assert head.labels == ("class-0", "class-1", "class-2")
