"""A base is opened, loaded and asked before it is uploaded; its faults are its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    BartForConditionalGeneration,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from merging.errors import InvalidInput
from merging.kinds import ModelKind
from merging.preflight.base import open_base, try_base
from tests.merging.tiny import WORDS, bart_config, bert_config
from tests.tiny_tokenizer import SPECIAL, write_tokenizer

TEXT, GENERATOR = ModelKind.TEXT_CLASSIFIER, ModelKind.GENERATOR
VOCAB = len(SPECIAL) + len(WORDS)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 90868376\n"
TINY = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
LLAMA = LlamaConfig(
    **TINY,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)
T5 = T5Config(
    vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0,
    eos_token_id=3, decoder_start_token_id=0,
)  # fmt: skip
WHOLE = {
    "masked language model, without pooler": (TEXT, lambda: BertForMaskedLM(bert_config())),
    "encoder alone, without pooler": (
        TEXT,
        lambda: BertModel(bert_config(), add_pooling_layer=False),
    ),
    "decoder for classifiers": (TEXT, lambda: LlamaModel(LLAMA)),
    "decoder": (GENERATOR, lambda: LlamaForCausalLM(LLAMA)),
    "encoder and decoder": (GENERATOR, lambda: BartForConditionalGeneration(bart_config(16))),
    "encoder and decoder for classifiers": (TEXT, lambda: T5ForConditionalGeneration(T5)),
}
Copy = Callable[[Path], Path]


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_base_is_taken(tmp_path: Path, case: str) -> None:
    kind, make = WHOLE[case]
    torch.manual_seed(0)
    make().save_pretrained(tmp_path)
    write_tokenizer(tmp_path, WORDS)
    try_base(tmp_path, kind)


def test_a_base_for_images_is_taken_and_needs_its_processor(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=8,
    )  # fmt: skip
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    try_base(tmp_path, ModelKind.IMAGE_CLASSIFIER)
    (tmp_path / "preprocessor_config.json").write_text(POINTER)
    with pytest.raises(InvalidInput, match="git lfs pull"):
        try_base(tmp_path, ModelKind.IMAGE_CLASSIFIER)


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def configure(directory: Path, **values: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **values}))


def no_vocabulary(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


QUERY = "encoder.layer.1.attention.self.query.weight"
FAULTS = {
    "weights pointer": (lambda d: (d / "model.safetensors").write_text(POINTER), "git lfs pull"),
    "tokenizer pointer": (lambda d: (d / "tokenizer.json").write_text(POINTER), "git lfs pull"),
    "configuration pointer": (lambda d: (d / "config.json").write_text(POINTER), "git lfs pull"),
    "a tensor less": (lambda d: rewrite(d, lambda t: t.pop(QUERY)), f"missing, {QUERY} first"),
    "another shape": (
        lambda d: rewrite(d, lambda t: t.update({QUERY: torch.zeros(3, 16)})),
        "a BertModel that transformers loads",
    ),
    "not finite": (
        lambda d: rewrite(d, lambda t: t[QUERY].fill_(float("nan"))),
        f"NaN or infinity in {QUERY}",
    ),
    "truncated": (
        lambda d: (d / "model.safetensors").write_bytes(
            (d / "model.safetensors").read_bytes()[:-4]
        ),
        "a whole safetensors file",
    ),
    "a wrapper": (
        lambda d: save_file(
            {f"module.{n}": t for n, t in load_file(d / "model.safetensors").items()},
            d / "model.safetensors",
            {"format": "pt"},
        ),
        "module. before each",
    ),
    "vast": (
        lambda d: configure(d, hidden_size=1 << 20, intermediate_size=1 << 20),
        "config.json claims",
    ),
    "no vocabulary": (no_vocabulary, "tokenizer"),
    "quantized": (
        lambda d: configure(d, quantization_config={"quant_method": "gptq", "bits": 4}),
        "a BertModel that transformers loads",
    ),
    "heads that do not divide": (lambda d: configure(d, num_attention_heads=3), "BertModel"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_base_is_refused_in_a_sentence(text_base: Path, copy_of: Copy, case: str) -> None:
    spoil, sentence = FAULTS[case]
    base = copy_of(text_base)
    spoil(base)
    with pytest.raises(InvalidInput) as caught:
        try_base(base, TEXT)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 900


def test_weights_that_are_not_the_base_are_named(text_base: Path, copy_of: Copy) -> None:
    base = copy_of(text_base)
    assert try_base(base, TEXT) == ()
    shutil.copyfile(base / "model.safetensors", base / "model_ema.safetensors")
    (sentence,) = try_base(base, TEXT)
    assert sentence.startswith("model_ema.safetensors lies beside the weights and was not read")


def test_a_base_of_another_kind_is_refused(text_base: Path) -> None:
    with pytest.raises(InvalidInput, match="has no class for model type bert"):
        open_base(text_base, ModelKind.IMAGE_CLASSIFIER)
    assert open_base(text_base, TEXT).tensors


def test_a_generator_has_to_be_whole(tmp_path: Path) -> None:
    LlamaModel(LLAMA).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, WORDS)
    with pytest.raises(InvalidInput, match=r"missing, lm_head\.weight first"):
        try_base(tmp_path, GENERATOR)
