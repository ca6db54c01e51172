"""Every kind of model goes the whole way: preflight, learn, materialise, load, evaluate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    BartForConditionalGeneration,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForSequenceClassification,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.expert import ExpertFiles, open_expert, read_head
from merging.experts.heads import Head
from merging.gate.artifact import check_weights
from merging.kinds import ModelKind
from merging.learning.learn import learn_coefficients
from merging.learning.taskmodels import TaskModels
from merging.models.evaluate import evaluate
from merging.models.materialise import materialise, verify
from merging.preflight.expert import check_expert
from merging.preflight.proof import prove
from merging.serving import AUTO_CLASSES, model_class
from merging.settings import MergeSettings
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet
from tests.merging.tiny import (
    WORDS,
    bart_config,
    generation_table,
    image_table,
    moved,
    save_expert,
    text_table,
)
from tests.tiny_tokenizer import SPECIAL, write_tokenizer

CPU = torch.device("cpu")
VOCABULARY = len(SPECIAL) + len(WORDS)
TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0}
LABELS = {"id2label": {0: "dark", 1: "bright", 2: "grey"}, "num_labels": 3}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {**SMALL, "intermediate_size": 32, "image_size": 16, "patch_size": 8}


@dataclass
class Case:
    kind: ModelKind
    base: PreTrainedModel
    experts: list[PreTrainedModel]
    loader: type = AutoModel


def vit() -> Case:
    config = ViTConfig(**VIT)
    base = ViTModel(config)  # with a pooler that no expert has
    return Case(
        ModelKind.IMAGE_CLASSIFIER, base, _experts(ViTForImageClassification, config, base, "vit")
    )


def deit() -> Case:  # transformers has two classifiers for it; a size may be height and width
    config = DeiTConfig(**{**VIT, "image_size": [16, 16]})
    base = DeiTModel(config, add_pooling_layer=False)
    experts = _experts(DeiTForImageClassification, config, base, "deit")
    return Case(ModelKind.IMAGE_CLASSIFIER, base, experts)


def dinov2() -> Case:
    config = Dinov2Config(**SMALL, image_size=16, patch_size=8)
    base = Dinov2Model(config)
    experts = _experts(Dinov2ForImageClassification, config, base, "dinov2")
    return Case(ModelKind.IMAGE_CLASSIFIER, base, experts)


def gpt2_classifier() -> Case:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=VOCABULARY)
    config.update(TOKENS)
    base = GPT2Model(config)
    experts = _experts(GPT2ForSequenceClassification, config, base, "transformer")
    return Case(ModelKind.TEXT_CLASSIFIER, base, experts)


def t5() -> Case:
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=VOCABULARY)
    config.update(TOKENS)
    base = T5ForConditionalGeneration(config)
    experts = [_copy(T5ForConditionalGeneration, config, base, i) for i in range(2)]
    return Case(ModelKind.GENERATOR, base, experts, AutoModelForSeq2SeqLM)


def bart() -> Case:  # its positions are looked up two rows behind where its input says
    config = bart_config(width=16)
    base = BartForConditionalGeneration(config)
    experts = [_copy(BartForConditionalGeneration, config, base, i) for i in range(2)]
    return Case(ModelKind.GENERATOR, base, experts, AutoModelForSeq2SeqLM)


def llama() -> Case:
    config = LlamaConfig(**SMALL, intermediate_size=32, vocab_size=VOCABULARY, **TOKENS)
    base = LlamaForCausalLM(config)  # its output layer is a tensor of its own, and is merged too
    experts = [_copy(LlamaForCausalLM, config, base, i) for i in range(2)]
    return Case(ModelKind.GENERATOR, base, experts, AutoModelForCausalLM)


def gpt2() -> Case:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=VOCABULARY)
    config.update(TOKENS)
    base = GPT2LMHeadModel(config)  # output layer tied to the embedding
    experts = [_copy(GPT2LMHeadModel, config, base, i) for i in range(2)]
    return Case(ModelKind.GENERATOR, base, experts, AutoModelForCausalLM)


def _experts(
    cls: type, config: object, base: PreTrainedModel, prefix: str
) -> list[PreTrainedModel]:
    config.update(LABELS)  # type: ignore[attr-defined]
    found = []
    for seed in range(2):
        model = cls(config)
        getattr(model, prefix).load_state_dict(base.state_dict(), strict=False)
        found.append(moved(model, seed))
    return found


def _copy(cls: type, config: object, base: PreTrainedModel, seed: int) -> PreTrainedModel:
    model = cls(config)
    model.load_state_dict(base.state_dict())
    return moved(model, seed)


CASES = [vit, deit, dinov2, gpt2_classifier, t5, bart, llama, gpt2]
TABLES = {
    ModelKind.IMAGE_CLASSIFIER: image_table,
    ModelKind.GENERATOR: lambda seed: generation_table(seed, 20),
    ModelKind.TEXT_CLASSIFIER: lambda seed: text_table(seed, 40).assign(
        label=lambda t: t["label"].str[-1:].astype(int)
    ),
}


@pytest.mark.parametrize(
    ("case", "dtype"), list(zip(CASES, cycle((torch.float32, torch.bfloat16)), strict=False))
)
def test_every_kind_goes_the_whole_way(
    case: type[Case], dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = case()
    base = tmp_path / "base"
    made.base.to(dtype).save_pretrained(base, max_shard_size="20KB")
    if made.kind.reads_images:
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(base)
    else:
        write_tokenizer(base, WORDS)
    experts = []
    for number, model in enumerate(made.experts):
        directory = tmp_path / f"expert-{number}"
        save_expert(model.to(dtype), directory, TABLES[made.kind](number))
        files = ExpertFiles(directory)
        assert check_expert(Checkpoint.open(base), files, made.kind) == ()
        experts.append(open_expert(f"task-{number}", files, made.kind))
        assert prove(Checkpoint.open(base), experts[-1], made.kind) == ()
        assert bool(experts[-1].split.gate.labels) == made.kind.has_head
    settings = MergeSettings(steps=8, batch_size=64, learning_rate=0.05)
    merged_set = ExpertSet.open(base, experts, made.kind)
    learned = learn_coefficients(merged_set, settings, work=tmp_path / "work", device=CPU)
    losses = [sum(record.losses.values()) for record in learned.history[1:]]
    assert losses[-1] < losses[0]
    out = materialise(merged_set, learned.coefficients, learned.heads, tmp_path / "out")
    verify(merged_set, out)
    original, merged = merged_set.base, Checkpoint.open(out.model)
    assert {n: (i.shape, i.dtype) for n, i in original.tensors.items()} == {
        n: (i.shape, i.dtype) for n, i in merged.tensors.items()
    }
    checks = check_weights(base, out.model, None, made.kind)
    assert [check.verdict for check in checks] == ["passed", "passed"]
    loaded = made.loader.from_pretrained(out.model)
    assert all(bool(torch.isfinite(p).all()) for p in loaded.parameters())
    gate = experts[0].split.gate
    head = Head.load(out.head("task-0"), "task-0")
    outcomes = evaluate(Backbone.of(merged, made.kind), head, gate, CPU)
    assert outcomes.keys == gate.keys


def test_what_travels_with_a_model_knows_every_kind_as_it_is() -> None:
    assert set(AUTO_CLASSES) == set(ModelKind)
    for kind in ModelKind:
        assert (AutoModelForImageClassification in AUTO_CLASSES[kind]) == kind.reads_images
        assert (AutoModelForCausalLM in AUTO_CLASSES[kind]) != kind.has_head


@pytest.mark.parametrize("case", CASES)
def test_an_architecture_gets_its_own_class(case: type[Case]) -> None:
    made = case()
    cls, _ = model_class(made.experts[0].config.to_dict(), made.kind)
    assert cls is type(made.experts[0])
    assert cls.can_generate() != made.kind.has_head


def test_only_plain_embeddings_are_read_by_row(tmp_path: Path) -> None:
    """What follows its own idea of a row is written whole, or steps would leave it as it was."""
    config = OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=16, vocab_size=VOCABULARY, **TOKENS)
    config.update(LABELS)
    OPTForSequenceClassification(config).save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    names = backbone_names(checkpoint, ModelKind.TEXT_CLASSIFIER)
    head = read_head("task", ExpertFiles(tmp_path), ModelKind.TEXT_CLASSIFIER)
    models = TaskModels(checkpoint, [head], ModelKind.TEXT_CLASSIFIER, names, CPU)
    assert list(models.lookups) == ["decoder.embed_tokens.weight"]


def test_parameters_that_loading_joins_are_refused(tmp_path: Path) -> None:
    config = MixtralConfig(
        **SMALL, intermediate_size=32, num_key_value_heads=1, vocab_size=VOCABULARY, **TOKENS
    )
    base = MixtralForCausalLM(config)
    base.save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base", WORDS)
    save_expert(moved(base, 0), tmp_path / "expert", generation_table(0))
    opened = Checkpoint.open(tmp_path / "base"), ExpertFiles(tmp_path / "expert")
    found = check_expert(*opened, ModelKind.GENERATOR)
    assert len(found) == 2 * 8 * 3  # layers, experts and their matrices
    assert all("experts" in m.tensor and "transformers" in m.found for m in found)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    made = gpt2()
    made.base.save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base", WORDS)
    directory = save_expert(made.experts[0], tmp_path / "expert", generation_table(0))
    expert = open_expert("task", directory, ModelKind.GENERATOR)
    settings = MergeSettings(steps=2, batch_size=2)
    alone = ExpertSet.open(tmp_path / "base", [expert], ModelKind.GENERATOR)
    learned = learn_coefficients(alone, settings, work=tmp_path / "w", device=CPU)
    assert "lm_head.weight" not in learned.coefficients.values
    assert "wte.weight" in learned.coefficients.values
    out = materialise(alone, learned.coefficients, alone.heads, tmp_path / "out")
    assert "lm_head.weight" not in load_file(out.model / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(out.model)
    assert model.lm_head.weight is model.transformer.wte.weight
    config = json.loads((out.head("task") / "config.json").read_text())
    assert config["model_type"] == "gpt2"
