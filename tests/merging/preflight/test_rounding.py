"""Rounding that people cannot see is said, with the share of the task vector that it takes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, BertModel

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import Expert, ExpertFiles, open_expert
from merging.kinds import ModelKind
from merging.preflight.rounding import rounding_remarks
from merging.settings import WriteDtype
from merging.vectors.rounding import own_rounding
from tests.merging.experts.test_adapters import write_adapter
from tests.merging.tiny import moved, text_table, write_text_expert

KIND = ModelKind.TEXT_CLASSIFIER
NARROW = [torch.bfloat16, torch.float16]


@pytest.fixture
def trained_base(text_base: Path, tmp_path: Path) -> Path:
    """A base without the ones and zeros that a model begins with."""
    shutil.copytree(text_base, tmp_path / "trained-base")
    moved(BertModel.from_pretrained(text_base), 7).save_pretrained(tmp_path / "trained-base")
    return tmp_path / "trained-base"


@pytest.fixture
def near(trained_base: Path, tmp_path: Path) -> Path:
    """A folder of an expert so near its base that bf16 hardly tells them apart."""
    return write_text_expert(trained_base, tmp_path / "expert", 0, scale=5e-4)


def stored(folder: Path, out: Path, dtype: torch.dtype) -> Expert:
    shutil.copytree(folder, out)
    BertForSequenceClassification.from_pretrained(folder, dtype=dtype).save_pretrained(out)
    return open_expert("task", out, KIND)


def base_in(trained_base: Path, out: Path, dtype: torch.dtype) -> Checkpoint:
    shutil.copytree(trained_base, out)
    BertModel.from_pretrained(trained_base, dtype=dtype).save_pretrained(out)
    return Checkpoint.open(out)


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5


def said(
    base: Checkpoint, expert: Expert, write_dtype: WriteDtype = "base"
) -> tuple[list[str], list[float]]:
    sentences = list(rounding_remarks(base, expert, KIND, write_dtype))
    return sentences, [int(re.findall(r"(\d+)%", s)[0]) / 100 for s in sentences]


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0])  # the first is below float16's normal numbers
@pytest.mark.parametrize("dtype", NARROW)
def test_the_rounding_of_stored_values_is_estimated(dtype: torch.dtype, size: float) -> None:
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * size
    found = own_rounding(values.to(dtype), torch.ones(4000))
    assert found == pytest.approx(float((values - values.to(dtype)).square().sum()), rel=0.1)
    assert own_rounding(values.to(dtype), torch.zeros(4000)) == 0  # which may be frozen


def test_an_expert_stored_more_coarsely_than_its_base(
    trained_base: Path, near: Path, tmp_path: Path
) -> None:
    base, dtype = Checkpoint.open(trained_base), torch.bfloat16
    trained = {n: t for n, t in load_file(near / "model.safetensors").items() if "bert" in n}
    names = {n: n.removeprefix("bert.") for n in trained}
    lost = norm({n: t - t.to(dtype).float() for n, t in trained.items()})
    change = norm({n: t.to(dtype).float() - base.read(names[n]) for n, t in trained.items()})
    sentences, shares = said(base, stored(near, tmp_path / "stored", dtype))
    assert shares == [pytest.approx(lost / change, abs=0.015)]
    assert "stored in bfloat16 and its base in float32" in sentences[0]


@pytest.mark.parametrize("dtype", NARROW)
def test_an_expert_that_its_bases_dtype_cannot_hold(
    trained_base: Path, near: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    base = base_in(trained_base, tmp_path / "base", dtype)
    expert = open_expert("task", near, KIND)
    trained = {n: expert.files.checkpoint.read(n) for n in base.tensors}
    lost = norm({n: t - t.to(dtype).float() for n, t in trained.items()})
    change = norm({n: t - base.read(n).float() for n, t in trained.items()})
    sentences, shares = said(base, expert)
    assert shares == [pytest.approx(lost / change, rel=0.05, abs=0.006)]
    assert f"rounded to {str(dtype)[6:]}" in sentences[0]
    assert "write_dtype: float32" in sentences[0]
    assert said(base, expert, "float32")[0] == []


def test_an_adapter_on_a_coarse_base_would_lose_as_well(trained_base: Path, tmp_path: Path) -> None:
    base = base_in(trained_base, tmp_path / "base", torch.bfloat16)
    small = LoraConfig(r=2, lora_alpha=0.01, task_type="SEQ_CLS", target_modules=["query"])
    write_adapter(trained_base, tmp_path / "adapter", small, 1)
    table = text_table(1)
    table["label"] = table["label"].str.removeprefix("class-").astype(int)  # it names no labels
    table.to_parquet(tmp_path / "adapter" / "examples.parquet")
    files = ExpertFiles(tmp_path / "adapter", base)
    sentences, _ = said(base, open_expert("task", files, KIND))
    assert len(sentences) == 1
    assert "would be lost" in sentences[0]


def test_nothing_is_said_where_nothing_is_lost(
    trained_base: Path, near: Path, tmp_path: Path
) -> None:
    assert said(Checkpoint.open(trained_base), open_expert("task", near, KIND))[0] == []
    base = base_in(trained_base, tmp_path / "base", torch.bfloat16)
    alike = stored(near, tmp_path / "alike", torch.bfloat16)
    assert said(base, alike)[0] == []


def test_a_family_that_writes_less_than_its_base_hears_of_it(
    trained_base: Path, near: Path
) -> None:
    base = Checkpoint.open(trained_base)
    sentences, _ = said(base, open_expert("task", near, KIND), "bfloat16")
    assert "rounded to bfloat16" in sentences[0]


def test_values_that_float16_does_not_have_are_refused(trained_base: Path, tmp_path: Path) -> None:
    far = write_text_expert(trained_base, tmp_path / "far", 0, scale=1e5)
    base = base_in(trained_base, tmp_path / "base", torch.float16)
    with pytest.raises(InvalidInput, match=r"65,504.*write_dtype"):
        said(base, open_expert("task", far, KIND))
