from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from merging.errors import InvalidInput, NotReproduced
from merging.experts.checkpoint import Checkpoint, digest_directory
from merging.experts.expert import Expert
from merging.experts.heads import Head
from merging.models.coefficients import Coefficients
from merging.models.evaluate import evaluate
from merging.models.materialise import materialise, verify

KIND = "text-classifier"
Merge = Callable[..., Coefficients]


def test_zero_coefficients_give_the_base(
    text_base: Path, text_experts: tuple[Expert, ...], merge_experts: Merge, tmp_path: Path
) -> None:
    merge_experts(text_experts, tmp_path / "out", 0.0)
    base, merged = Checkpoint.open(text_base), Checkpoint.open(tmp_path / "out" / "model")
    assert list(base.tensors) == list(merged.tensors)
    assert all(torch.equal(base.read(n), merged.read(n)) for n in base.tensors)


def test_one_expert_with_coefficient_one_gives_that_expert(
    text_base: Path, text_experts: tuple[Expert, ...], merge_experts: Merge, tmp_path: Path
) -> None:
    merge_experts(text_experts, tmp_path / "out", 1.0, columns=1)
    expert = text_experts[0]
    gate = expert.split.gate
    device = torch.device("cpu")
    merged = evaluate(tmp_path / "out" / "model", tmp_path / "out/heads/task-0", gate, device)
    own = evaluate(expert.directory, expert.head, gate, device, base=text_base)
    assert merged == own
    original = Checkpoint.open(expert.directory)
    for name in (found := Checkpoint.open(tmp_path / "out" / "model")).tensors:
        torch.testing.assert_close(found.read(name), original.read(name), rtol=1e-6, atol=1e-7)


def test_the_same_inputs_give_the_same_bytes_and_load_with_transformers(
    text_base: Path, text_experts: tuple[Expert, ...], merge_experts: Merge, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        merge_experts(text_experts, tmp_path / name, 0.3)
    assert digest_directory(tmp_path / "a") == digest_directory(tmp_path / "b")
    AutoModel.from_pretrained(tmp_path / "a" / "model")
    verify(text_base, text_experts, KIND, tmp_path / "a")


def test_verify_finds_a_changed_weight(
    text_base: Path, text_experts: tuple[Expert, ...], merge_experts: Merge, tmp_path: Path
) -> None:
    merge_experts(text_experts, tmp_path / "out", 0.3)
    weights = tmp_path / "out" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(NotReproduced, match=r"model\.safetensors"):
        verify(text_base, text_experts, KIND, tmp_path / "out")


def test_coefficients_of_other_experts_are_refused(
    text_base: Path, text_experts: tuple[Expert, ...], merge_experts: Merge, tmp_path: Path
) -> None:
    coefficients = merge_experts(text_experts, tmp_path / "out", 0.3)
    with pytest.raises(InvalidInput, match="columns"):
        materialise(text_base, text_experts[:2], KIND, coefficients, {}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_heads_and_coefficients_come_back_as_saved(
    text_experts: tuple[Expert, ...], merge_experts: Merge, tmp_path: Path
) -> None:
    coefficients = merge_experts(text_experts, tmp_path / "out", 0.3)
    loaded = Coefficients.load(tmp_path / "out" / "coefficients.safetensors")
    assert loaded.digest == coefficients.digest
    head = Head.load(tmp_path / "out" / "heads" / "task-1", "task-1")
    assert head.digest == text_experts[1].head.digest
    assert head.labels == ("class-0", "class-1", "class-2")
