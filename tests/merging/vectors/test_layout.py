"""The names that stand-ins tell are those of the model with its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertLMHeadModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.expert import ExpertFiles, read_head
from merging.kinds import ModelKind
from merging.serving import assemble
from merging.vectors.layout import Layout

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LABELS = {"id2label": {0: "dark", 1: "bright"}}
TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}


def bert() -> PreTrainedModel:
    config = BertConfig(**SMALL, intermediate_size=32, vocab_size=40, **LABELS)
    return BertForSequenceClassification(config)


def deberta() -> PreTrainedModel:
    config = DebertaV2Config(**SMALL, intermediate_size=32, vocab_size=40, **LABELS)
    return DebertaV2ForSequenceClassification(config)


def vit() -> PreTrainedModel:
    config = ViTConfig(**SMALL, intermediate_size=32, image_size=16, patch_size=8, **LABELS)
    return ViTForImageClassification(config)


def gpt2() -> PreTrainedModel:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=16)
    config.update(TOKENS)
    return GPT2LMHeadModel(config)


def bart() -> PreTrainedModel:
    sides = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    sides |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=40, d_model=16, **sides, **TOKENS, forced_eos_token_id=3)
    )


def t5() -> PreTrainedModel:
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=40)
    config.update(TOKENS)
    return T5ForConditionalGeneration(config)


def mixtral() -> PreTrainedModel:
    config = MixtralConfig(
        **SMALL, intermediate_size=32, num_key_value_heads=1, vocab_size=40, **TOKENS
    )
    return MixtralForCausalLM(config)


def bert_decoder() -> PreTrainedModel:
    """Its output layer's bias is tied, and padded by nothing as it is loaded."""
    config = BertConfig(**SMALL, intermediate_size=32, vocab_size=40, is_decoder=True, **TOKENS)
    return BertLMHeadModel(config)


def llama4() -> PreTrainedModel:
    """The prefix of its names is what they would have to be renamed by."""
    config = Llama4TextConfig(
        **SMALL, intermediate_size=32, intermediate_size_mlp=32, vocab_size=40, **TOKENS
    )
    config.update({"head_dim": 8, "num_key_value_heads": 1, "num_local_experts": 2})
    return Llama4ForCausalLM(config)


CASES = {
    bert: ModelKind.TEXT_CLASSIFIER,
    deberta: ModelKind.TEXT_CLASSIFIER,
    vit: ModelKind.IMAGE_CLASSIFIER,
    gpt2: ModelKind.GENERATOR,
    bart: ModelKind.GENERATOR,
    t5: ModelKind.GENERATOR,
    mixtral: ModelKind.GENERATOR,
    bert_decoder: ModelKind.GENERATOR,
    llama4: ModelKind.GENERATOR,
}


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stand_ins_end_where_the_weights_do(
    make: Callable[[], PreTrainedModel], dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = make()
    with torch.no_grad():  # so that no two tensors are equal
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    made.to(dtype).save_pretrained(tmp_path)
    kind, checkpoint = CASES[make], Checkpoint.open(tmp_path)
    head = read_head("task", ExpertFiles(tmp_path), kind)
    tensors = {name: checkpoint.read(name) for name in backbone_names(checkpoint, kind)}
    keys = {checkpoint.tensors[name].key: tensor for name, tensor in tensors.items()}
    model = assemble(head.config, kind, {**keys, **head.tensors})

    layout = Layout.of(checkpoint, head, kind)

    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, paths in layout.parameters.items():
        assert all(torch.equal(parameters[path], tensors[name].float()) for path in paths), name
    reached = {path for paths in layout.parameters.values() for path in paths}
    for path in parameters.keys() - reached:
        for name, tensor in tensors.items():
            same = tensor.shape == parameters[path].shape
            assert not (same and torch.equal(tensor.float(), parameters[path])), (path, name)
    joined = {name for name in tensors if re.search(r"\.experts\.\d", name)}
    assert layout.whole == tensors.keys() - joined


@pytest.mark.parametrize("equal", [False, True])
def test_what_a_file_holds_twice_is_tied_where_it_is_the_same(equal: bool, tmp_path: Path) -> None:
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=40)
    config.update({**TOKENS, "tie_word_embeddings": False})
    made = T5ForConditionalGeneration(config)
    if equal:
        made.lm_head.weight.data.copy_(made.shared.weight)
    made.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "tie_word_embeddings": True}))
    checkpoint, kind = Checkpoint.open(tmp_path), ModelKind.GENERATOR

    layout = Layout.of(checkpoint, read_head("task", ExpertFiles(tmp_path), kind), kind)

    assert ("lm_head.weight" in layout.parameters) != equal
