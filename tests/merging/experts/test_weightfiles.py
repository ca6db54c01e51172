"""A folder is read as transformers reads it, and what is not the model is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import open_expert
from merging.kinds import ModelKind
from merging.preflight.remarks import remarks
from merging.serving import read_weights

Copy = Callable[[Path], Path]
INDEX = "model.safetensors.index.json"


def other_values(source: Path, target: Path) -> None:
    save_file({n: t + 1 for n, t in load_file(source).items()}, target, {"format": "pt"})


def shard(directory: Path) -> dict[str, str]:
    """Two shards and an index in the place of model.safetensors; gives the index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, some in parts.items():
        save_file({n: tensors[n] for n in some}, directory / file, {"format": "pt"})
    index = {name: file for file, some in parts.items() for name in some}
    write_index(directory, index)
    return index


def write_index(directory: Path, index: dict[str, str]) -> None:
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (directory / INDEX).write_text(text)


def assert_reads_as_transformers(directory: Path) -> Checkpoint:
    ours = Checkpoint.open(directory)
    theirs = BertModel.from_pretrained(directory).state_dict()
    assert ours.tensors.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours.read(name), tensor), name
        assert torch.equal(read_weights(directory)[ours.tensors[name].key], tensor)
    return ours


@pytest.mark.parametrize(
    "name",
    [
        "model_ema.safetensors",
        "model.fp16.safetensors",
        "consolidated.safetensors",
        "a.safetensors",
    ],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_other_weight_files_are_not_the_model_and_are_named(
    text_base: Path, copy_of: Copy, name: str, sharded: bool
) -> None:
    base = copy_of(text_base)
    other_values(base / "model.safetensors", base / name)
    if sharded:
        shard(base)
    assert assert_reads_as_transformers(base).left_aside == (name,)


def test_one_file_comes_before_an_index(text_base: Path, copy_of: Copy) -> None:
    base = copy_of(text_base)
    index = shard(base)
    shutil.copy(text_base / "model.safetensors", base)
    assert assert_reads_as_transformers(base).left_aside == tuple(sorted(set(index.values())))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda d, i: write_index(d, {**i, "more": "model-00001-of-00002.safetensors"}),
            "more first",
        ),
        (lambda d, i: write_index(d, {**i, "more": "../model.safetensors"}), "the path '../model"),
        (lambda d, i: write_index(d, {**i, "more": "/etc/passwd"}), "the path '/etc/passwd'"),
        (lambda d, i: write_index(d, {**i, "more": ".."}), "missing"),
        (lambda d, _: write_index(d, {}), "another document"),
        (lambda d, _: (d / INDEX).write_text("[1]"), "another document"),
        (lambda d, i: (d / INDEX).write_text(json.dumps({"weight_map": i})), "another document"),
        (lambda d, _: (d / INDEX).unlink(), "only model-00001-of-00002"),
        (
            lambda d, _: (d / "model-00002-of-00002.safetensors").unlink(),
            "00002.safetensors missing",
        ),
        (
            lambda d, _: other_values(
                d / "model-00001-of-00002.safetensors", d / "model-00002-of-00002.safetensors"
            ),
            "in model-00001-of-00002.safetensors",
        ),
    ],
)
def test_a_wrong_index_is_refused(
    text_base: Path, copy_of: Copy, spoil: Callable[..., object], sentence: str
) -> None:
    base = copy_of(text_base)
    spoil(base, shard(base))
    with pytest.raises(InvalidInput) as caught:
        Checkpoint.open(base)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("config", "file"),
    [
        ({"transformers_weights": "model_ema.safetensors"}, "model_ema.safetensors"),
        ({}, "shard-00000-model-00001-of-00001.safetensors"),  # spread over processes
    ],
)
def test_weights_that_transformers_takes_from_elsewhere_are_refused(
    text_base: Path, copy_of: Copy, config: dict[str, str], file: str
) -> None:
    base = copy_of(text_base)
    other_values(base / "model.safetensors", base / file)
    known = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**known, **config}))
    with pytest.raises(InvalidInput, match=file):
        Checkpoint.open(base)


def test_people_are_told_what_was_left_aside(
    text_expert_directories: tuple[Path, ...], copy_of: Copy
) -> None:
    expert = copy_of(text_expert_directories[0])
    other_values(expert / "model.safetensors", expert / "model_ema.safetensors")
    opened = open_expert("task", expert, ModelKind.TEXT_CLASSIFIER)
    (sentence,) = remarks(opened)
    assert sentence.startswith("model_ema.safetensors lies beside the weights and was not read")
