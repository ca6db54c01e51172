"""Experts whose files have other names than their base's and mean the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
)

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint, wrapper_of
from merging.experts.expert import Expert, ExpertFiles, open_expert
from merging.kinds import ModelKind
from merging.models.coefficients import Coefficients
from merging.models.materialise import materialise
from merging.preflight.expert import check_expert
from merging.preflight.proof import prove
from merging.serving import assemble, read_weights
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import WORDS, bert_config, moved, save_expert, text_table
from tests.tiny_tokenizer import SPECIAL, write_tokenizer

KIND = ModelKind.TEXT_CLASSIFIER
VOCAB = len(SPECIAL) + len(WORDS)
Copy = Callable[[Path], Path]
Tensors = dict[str, torch.Tensor]


def rewrite(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = change(load_file(directory / "model.safetensors"))
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def assert_fits(base: Path, directory: Path) -> Expert:
    checkpoint = Checkpoint.open(base)
    assert check_expert(checkpoint, ExpertFiles(directory), KIND) == ()
    expert = open_expert("task", directory, KIND)
    assert prove(checkpoint, expert, KIND) == ()
    return expert


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_behind_a_wrapper_are_the_models_own(
    text_base: Path, text_expert_directories: tuple[Path, ...], copy_of: Copy, wrapper: str
) -> None:
    expert = copy_of(text_expert_directories[0])
    plain = Checkpoint.open(text_expert_directories[0])
    rewrite(expert, lambda tensors: {wrapper + n: t for n, t in tensors.items()})
    wrapped = Checkpoint.open(expert)
    assert (wrapped.wrapper, wrapped.head) == (wrapper, plain.head)
    assert wrapped.tensors.keys() == plain.tensors.keys()
    assert all(torch.equal(wrapped.read(name), plain.read(name)) for name in plain.tensors)
    assert_fits(text_base, expert)


def test_a_wrapper_of_some_names_is_part_of_them() -> None:
    assert wrapper_of(["module.a", "b"]) == ""
    assert wrapper_of([]) == ""


def test_a_tensor_under_two_names_is_refused(text_base: Path, copy_of: Copy) -> None:
    base = copy_of(text_base)
    name = "embeddings.LayerNorm.weight"
    rewrite(base, lambda t: {**t, name.replace("weight", "gamma"): t[name] + 1})
    with pytest.raises(InvalidInput, match=r"embeddings\.LayerNorm\.gamma"):
        Checkpoint.open(base)


def test_old_names_of_layer_norms_are_todays(
    text_base: Path, text_expert_directories: tuple[Path, ...], copy_of: Copy
) -> None:
    def old(name: str) -> str:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return name.replace("LayerNorm.bias", "LayerNorm.beta")

    base, expert = copy_of(text_base), copy_of(text_expert_directories[0])
    for directory in (base, expert):
        rewrite(directory, lambda t: {old(n): v for n, v in t.items()})
    assert_fits(base, text_expert_directories[0])
    assert_fits(text_base, expert)


SMALL = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
LLAMA = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
OLD = {
    "rotary": (
        LlamaConfig(**SMALL, **LLAMA, num_hidden_layers=1, num_key_value_heads=1),
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ),
    "mask": (GPT2Config(**SMALL, n_embd=16, n_head=2, n_layer=1), "transformer.h.0.attn.bias"),
    "masked": (
        GPT2Config(**SMALL, n_embd=16, n_head=2, n_layer=1),
        "transformer.h.0.attn.masked_bias",
    ),
    "neox": (
        GPTNeoXConfig(**SMALL, **LLAMA, num_hidden_layers=1),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
    ),
    "positions": (bert_config(), "bert.embeddings.position_ids"),
}


@pytest.mark.parametrize("side", ["base", "expert"])
@pytest.mark.parametrize("case", OLD)
def test_constants_of_old_releases_are_no_weights(tmp_path: Path, case: str, side: str) -> None:
    config, name = OLD[case]
    torch.manual_seed(0)
    config.id2label = {i: f"class-{i}" for i in range(3)}
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base", WORDS)
    save_expert(moved(model, 1), tmp_path / "expert", text_table(1))
    rewrite(tmp_path / side, lambda t: {**t, name: torch.ones(2)})
    checkpoint = Checkpoint.open(tmp_path / side)
    assert not [n for n in checkpoint.tensors if name.endswith(n)]
    assert_fits(tmp_path / "base", tmp_path / "expert")


def test_what_only_the_expert_has_belongs_to_its_own_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    BertForMaskedLM(bert_config()).save_pretrained(tmp_path / "base")  # which has no pooler
    write_tokenizer(tmp_path / "base", WORDS)
    labels = {i: f"class-{i}" for i in range(3)}
    opened = []
    for seed in (1, 2):
        model = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "base", id2label=labels
        )
        save_expert(moved(model, seed), tmp_path / f"expert-{seed}", text_table(seed))
        opened.append(assert_fits(tmp_path / "base", tmp_path / f"expert-{seed}"))
    alone = ExpertSet.open(tmp_path / "base", opened[:1], KIND)
    assert {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} < set(alone.heads["task"].tensors)
    ones = Coefficients.constant(["task"], alone.names, 1.0)
    materialise(alone, ones, alone.heads, tmp_path / "out")
    head = tmp_path / "out/heads/task"
    merged = assemble(
        alone.heads["task"].config,
        KIND,
        {**read_weights(tmp_path / "out/model"), **read_weights(head)},
    )
    own = AutoModelForSequenceClassification.from_pretrained(tmp_path / "expert-1")
    tokens = torch.tensor([[2, 9, 14, 20, 3]])
    torch.testing.assert_close(merged(tokens).logits, own(tokens).logits, atol=1e-5, rtol=1e-5)


def test_a_tensor_that_only_the_expert_has_and_its_model_does_not_use_is_refused(
    text_base: Path, text_expert_directories: tuple[Path, ...], copy_of: Copy
) -> None:
    expert = copy_of(text_expert_directories[0])
    name = "encoder.layer.7.attention.self.query.weight"
    rewrite(expert, lambda t: {**t, f"bert.{name}": torch.zeros(2, 2)})
    (mismatch,) = check_expert(Checkpoint.open(text_base), ExpertFiles(expert), KIND)
    assert mismatch.tensor == name
