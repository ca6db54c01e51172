"""An adapter alone answers as PEFT does, or is refused in words that help."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    ConvNextConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    ResNetConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles, read_head
from merging.experts.forms import LowRank
from merging.kinds import ModelKind
from merging.serving import assemble
from merging.vectors.backbone import Backbone
from merging.vectors.deltas import dense_delta, source_of
from merging.vectors.mapped import TaskVectors, build_vectors

TEXT, IMAGE, WRITER = ModelKind.TEXT_CLASSIFIER, ModelKind.IMAGE_CLASSIFIER, ModelKind.GENERATOR
VOCABULARY = 40
HEADS = {TEXT: "SequenceClassification", IMAGE: "ImageClassification", WRITER: "CausalLM"}
TEXT_IDS = {"input_ids": torch.tensor([[2, 5, 9, 14, 20, 33], [2, 7, 7, 30, 11, 3]])}
PAIR_IDS = {**TEXT_IDS, "labels": TEXT_IDS["input_ids"]}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)}
TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "vocab_size": VOCABULARY}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}


def llama(*, tied: bool = False) -> PretrainedConfig:
    return LlamaConfig(**TOKENS, **SMALL, num_key_value_heads=1, tie_word_embeddings=tied)


def gpt2(*, tied: bool = True) -> PretrainedConfig:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return GPT2Config(**TOKENS, **sizes, tie_word_embeddings=tied)


def bert() -> PretrainedConfig:
    return BertConfig(**TOKENS, **SMALL)


def roberta() -> PretrainedConfig:
    return RobertaConfig(**TOKENS, **SMALL)


def vit() -> PretrainedConfig:
    sizes = {k: v for k, v in SMALL.items() if k != "max_position_embeddings"}
    return ViTConfig(**sizes, image_size=16, patch_size=4)


def t5() -> PretrainedConfig:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    return T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes)


def mixture(cls: type[PretrainedConfig]) -> Callable[[], PretrainedConfig]:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "num_key_value_heads": 1}
    return lambda: cls(**TOKENS, **SMALL, **experts, head_dim=8)


def resnet() -> PretrainedConfig:
    return ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")


@dataclass(frozen=True)
class Case:
    kind: ModelKind
    config: Callable[[], PretrainedConfig]
    adapter: Callable[[], Any]
    inputs: Mapping[str, Tensor] = field(default_factory=lambda: TEXT_IDS)
    saved: Mapping[str, Any] = field(default_factory=dict)  # how its base was made


def lora(*targets: str, **settings: Any) -> Callable[[], LoraConfig]:
    return lambda: LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": [*targets], **settings})


def ia3(*targets: str, **settings: Any) -> Callable[[], IA3Config]:
    return lambda: IA3Config(
        **{"target_modules": [*targets], "feedforward_modules": [], **settings}
    )


def of_llama(adapter: Callable[[], Any], *, tied: bool = False) -> Case:
    return Case(WRITER, lambda: llama(tied=tied), adapter)


CLASSIFIES = {"task_type": "SEQ_CLS"}
SEES = {"modules_to_save": ["classifier"]}
EXACT = {
    "embedding": of_llama(lora("q_proj", "embed_tokens")),
    "embedding and output": of_llama(lora("q_proj", "embed_tokens", "lm_head")),
    "embedding saved whole": of_llama(lora("q_proj", modules_to_save=["embed_tokens"])),
    "embedding and output saved whole": of_llama(
        lora("q_proj", modules_to_save=["embed_tokens", "lm_head"])
    ),
    "output of an untied model": of_llama(lora("lm_head", task_type="CAUSAL_LM")),
    "tied, changed together": of_llama(
        lora("q_proj", "embed_tokens", ensure_weight_tying=True), tied=True
    ),
    "tied, saved whole together": of_llama(
        lora("q_proj", modules_to_save=["embed_tokens"], ensure_weight_tying=True), tied=True
    ),
    "tokens": of_llama(lora("q_proj", trainable_token_indices=[4, 7, 39])),
    "tokens, tied": of_llama(lora("q_proj", trainable_token_indices=[4, 7, 39]), tied=True),
    "every linear layer": of_llama(lambda: LoraConfig(target_modules="all-linear", r=2)),
    "a pattern": of_llama(lambda: LoraConfig(target_modules=r".*\.1\..*(q|v)_proj", r=2)),
    "patterns of ranks": of_llama(
        lora("q_proj", "v_proj", rank_pattern={"q_proj": 5}, alpha_pattern={"layers.1": 3})
    ),
    "rank-stabilised": of_llama(lora("q_proj", use_rslora=True)),
    "some layers": of_llama(lora("q_proj", layers_to_transform=[1])),
    "excluded": of_llama(lora("q_proj", "v_proj", exclude_modules=["layers.0.self_attn.q_proj"])),
    "a parameter": of_llama(lora(target_parameters=["q_proj.weight"])),
    "Conv1D and Linear": Case(
        WRITER, lambda: gpt2(tied=False), lora("c_attn", "c_proj", "lm_head", "wte")
    ),
    "Conv1D of a classifier": Case(TEXT, gpt2, lora("c_attn", "c_fc", **CLASSIFIES)),
    "Conv1D, scaled": Case(
        WRITER, gpt2, ia3("c_attn", "mlp.c_proj", feedforward_modules=["mlp.c_proj"])
    ),
    "a classifier": Case(TEXT, bert, lora("query", "word_embeddings", **CLASSIFIES)),
    "all biases": Case(TEXT, bert, lora("query", bias="all", **CLASSIFIES)),
    "biases of its layers": Case(TEXT, bert, lora("query", bias="lora_only", **CLASSIFIES)),
    "biases in the factors": Case(TEXT, bert, lora("query", lora_bias=True, **CLASSIFIES)),
    "pooler saved whole": Case(TEXT, bert, lora("query", modules_to_save=["pooler", "classifier"])),
    "factors in the head": Case(TEXT, roberta, lora("query", "dense", **CLASSIFIES)),
    "scaled": Case(
        TEXT,
        bert,
        ia3("key", "value", "output.dense", feedforward_modules=["output.dense"], **CLASSIFIES),
    ),
    "statistics saved whole": Case(
        IMAGE,
        resnet,
        lora("convolution", modules_to_save=["classifier", "normalization"]),
        PIXELS,
    ),
    "an image classifier": Case(IMAGE, vit, lora("query", "projection", **SEES), PIXELS),
    "encoder and decoder": Case(
        WRITER, t5, lora("q", "v", "wi", task_type="SEQ_2_SEQ_LM"), PAIR_IDS
    ),
    "experts of a mixture, which are one tensor": Case(
        WRITER, mixture(GptOssConfig), lora("q_proj", target_parameters=["experts.down_proj"])
    ),
    "convolutions": Case(IMAGE, resnet, lora("convolution", **SEES), PIXELS),
    "convolutions, scaled": Case(IMAGE, resnet, ia3("convolution", **SEES), PIXELS),
    "inputs of convolutions, scaled": Case(
        IMAGE, resnet, ia3("convolution", feedforward_modules=["convolution"], **SEES), PIXELS
    ),
}


def model_class(case: Case) -> Any:
    name = type(case.config()).__name__.removesuffix("Config")
    if name == "T5":
        return transformers.T5ForConditionalGeneration
    suffix = "LMHeadModel" if name == "GPT2" and case.kind is WRITER else "For" + HEADS[case.kind]
    return getattr(transformers, name + suffix)


def labels(case: Case) -> dict[str, Any]:
    return {"num_labels": 4} if case.kind.has_head else {}


def write(case: Case, directory: Path, **saving: Any) -> tuple[Path, Path]:
    """A base and a trained adapter of it, as their libraries save them."""
    base, folder = directory / "base", directory / "adapter"
    torch.manual_seed(0)
    cls = model_class(case)
    whole = cls(case.config()).eval()
    saved = whole.base_model if case.kind.has_head else whole
    (type(saved)(case.config(), **case.saved) if case.saved else saved).save_pretrained(base)
    config = case.adapter()
    adapted = get_peft_model(cls.from_pretrained(base, **labels(case)), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapted.save_pretrained(folder, **saving)
    return base, folder


@torch.no_grad()
def peft_logits(case: Case, base: Path, folder: Path) -> Tensor:
    model = model_class(case).from_pretrained(base, **labels(case))
    return PeftModel.from_pretrained(model, folder).eval()(**case.inputs).logits


@torch.no_grad()
def our_logits(case: Case, base: Path, folder: Path) -> Tensor:
    checkpoint = Checkpoint.open(base)
    files = ExpertFiles(folder, checkpoint)
    head = read_head("task", files, case.kind)
    source = source_of(checkpoint, files, case.kind)
    backbone = Backbone.of_expert(checkpoint, files, source, case.kind)
    model = assemble(head.config, case.kind, {**backbone.tensors, **head.tensors})
    return model(**case.inputs).logits


@pytest.mark.parametrize("name", EXACT)
def test_an_adapter_as_peft_saves_it_answers_as_peft_does(name: str, tmp_path: Path) -> None:
    case = EXACT[name]
    base, folder = write(case, tmp_path)
    wanted = peft_logits(case, base, folder)
    torch.testing.assert_close(our_logits(case, base, folder), wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        alone = model_class(case).from_pretrained(base, **labels(case)).eval()(**case.inputs).logits
    assert (wanted - alone).abs().max() > 1e-3


REFUSED = {
    "an embedding of several users": (
        Case(WRITER, t5, lora("q", "shared"), PAIR_IDS),
        "tied weights",
    ),
    "experts of a mixture, which are several tensors": (
        Case(WRITER, mixture(MixtralConfig), lora(target_parameters=["experts.gate_up_proj"])),
        "puts together from several",
    ),
    "inputs of a convolution in groups": (
        Case(
            IMAGE,
            lambda: ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4),
            ia3("dwconv", feedforward_modules=["dwconv"], **SEES),
            PIXELS,
        ),
        "convolution in groups",
    ),
    "output of a tied model": (of_llama(lora("q_proj", "lm_head"), tied=True), "tied weights"),
    "embedding of a tied model": (of_llama(lora("embed_tokens"), tied=True), "tied weights"),
    "both of a tied model": (of_llama(lora("embed_tokens", "lm_head"), tied=True), "tied weights"),
    "embedding of a tied model, saved whole": (
        of_llama(lora("q_proj", modules_to_save=["embed_tokens"]), tied=True),
        "ensure_weight_tying",
    ),
    "DoRA": (of_llama(lora("q_proj", use_dora=True)), "use_dora=True"),
    "layers twice": (of_llama(lora("q_proj", layer_replication=[(0, 2), (1, 2)])), "replication"),
    "activated": (
        of_llama(lora("q_proj", alora_invocation_tokens=[5], task_type="CAUSAL_LM")),
        "alora_invocation_tokens=[5]",
    ),
    "PiSSA": (of_llama(lora("q_proj", init_lora_weights="pissa")), "init_lora_weights=pissa"),
    "another method": (
        of_llama(lambda: VeraConfig(target_modules=["q_proj"], r=2)),
        "peft_type=VERA",
    ),
    "no head": (Case(TEXT, bert, lora("query")), "none for classifier.weight"),
    "no pooler": (
        Case(TEXT, bert, lora("query", **CLASSIFIES), saved={"add_pooling_layer": False}),
        "none for bert.pooler.dense.weight",
    ),
    "another task": (Case(TEXT, bert, lora("query", task_type="TOKEN_CLS")), "task_type TOKEN_CLS"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_change_of_the_bases_tensors_is_refused(name: str, tmp_path: Path) -> None:
    case, words = REFUSED[name]
    base, folder = write(case, tmp_path)
    with pytest.raises(InvalidInput) as refusal:
        our_logits(case, base, folder)
    assert words in str(refusal.value)
    assert "ine-tune it again" not in str(refusal.value)


UNMERGEABLE = {
    "prompts": lambda: PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prefixes": lambda: PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "layers twice": lora("q_proj", layer_replication=[(0, 2), (1, 2)]),
}


@pytest.mark.parametrize("name", UNMERGEABLE)
def test_who_has_nothing_that_could_be_merged_is_not_told_to_merge_it(
    name: str, tmp_path: Path
) -> None:
    case = of_llama(UNMERGEABLE[name])
    base, folder = write(case, tmp_path)
    with pytest.raises(InvalidInput) as refusal:
        our_logits(case, base, folder)
    assert "merge_and_unload" not in refusal.value.remedy
    assert "LoRA or IA3" in refusal.value.remedy


@pytest.mark.parametrize(
    "name",
    ["convolutions", "inputs of convolutions, scaled", "Conv1D and Linear", "tokens", "all biases"],
)
def test_every_form_is_learned_with_as_it_is(name: str, tmp_path: Path) -> None:
    case = EXACT[name]
    base, folder = write(case, tmp_path)
    checkpoint = Checkpoint.open(base)
    files = ExpertFiles(folder, checkpoint)
    source = source_of(checkpoint, files, case.kind)
    names = list(files.adapted(case.kind).changes)
    build_vectors(tmp_path / "vectors", checkpoint, [source], names)
    vectors = TaskVectors(tmp_path / "vectors")
    for tensor in names:
        dense = dense_delta(source.delta(tensor), checkpoint, tensor)
        assert dense is not None
        added = torch.zeros(dense.shape)
        vectors.stack(tensor).add(added, torch.ones(1))
        torch.testing.assert_close(added, dense, rtol=1e-4, atol=1e-6)
        gradient = torch.randn(dense.shape, generator=torch.Generator().manual_seed(0))
        for rows in (False, True):
            products = (gradient * dense).flatten(1).sum(1) if dense.ndim > 1 else gradient * dense
            found = vectors.stack(tensor).inner(gradient, rows=rows)
            wanted = products[None] if rows else products.sum()[None]
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def changed_config(folder: Path, **changes: Any) -> None:
    """Changes what an adapter's configuration says."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize(
    "adapter",
    [
        lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]),
        lora("q_proj", "embed_tokens"),
        lora("q_proj", "lm_head"),
    ],
)
def test_a_resized_vocabulary_is_called_by_its_name(
    adapter: Callable[[], Any], with_config: bool, tmp_path: Path
) -> None:
    case = of_llama(adapter)
    model_class(case)(case.config()).save_pretrained(tmp_path / "base")
    model = model_class(case).from_pretrained(tmp_path / "base")
    model.resize_token_embeddings(VOCABULARY + 3)
    get_peft_model(model, adapter()).save_pretrained(tmp_path / "adapter")
    if with_config:
        model.config.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InvalidInput, match="resized from 40 to 43") as refusal:
        our_logits(case, tmp_path / "base", tmp_path / "adapter")
    assert "resize_token_embeddings(43)" in refusal.value.remedy


def rename(folder: Path, old: str, new: str | None) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {key.replace(old, new or old): t for key, t in load_file(path).items()}
    kept = {key: tensor for key, tensor in tensors.items() if new or old not in key}
    save_file(kept, path, metadata={"format": "pt"})


def rename_weights(folder: Path, name: str) -> None:
    (folder / "adapter_model.safetensors").rename(folder / name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda f: rename(f, "layers.1.self_attn.q_proj.lora_A", None),
            "found none for model.layers.1",
        ),
        (lambda f: rename(f, "layers.1", "layers.7"), "model.layers.1.self_attn.q_proj.lora_A"),
        (lambda f: rename(f, "q_proj", "k_proj"), "found none for"),
        (lambda f: changed_config(f, r=5), "of shape [5, 16]"),
        (lambda f: changed_config(f, peft_type=["LORA"]), "peft_type=['LORA']"),
        (lambda f: changed_config(f, r=10**12), "rank 1000000000000"),
        (lambda f: changed_config(f, r="many"), "an adapter that PEFT can put on the base"),
        (lambda f: changed_config(f, target_modules=["nothing"]), "PEFT can put on the base"),
        (lambda f: changed_config(f, megatron_config={"a": 1}), "megatron_config={'a': 1}"),
        (lambda f: changed_config(f, a_later_variant=True), "a_later_variant=True"),
        (lambda f: rename(f, "model.model.", "model._orig_mod.model."), "torch.compile was given"),
        (lambda f: rename_weights(f, "adapter_model.bin"), "a pickle, which is never read"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "found []"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json"),
    ],
)
def test_a_spoilt_adapter_is_refused_in_words(
    spoil: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    case = of_llama(lora("q_proj"))
    base, folder = write(case, tmp_path)
    spoil(folder)
    with pytest.raises(InvalidInput) as refusal:
        our_logits(case, base, folder)
    assert words in str(refusal.value)


def test_an_adapter_of_a_later_peft_is_read_where_it_says_nothing_new(tmp_path: Path) -> None:
    case = of_llama(lora("q_proj"))
    base, folder = write(case, tmp_path)
    changed_config(folder, a_later_variant=None, another_one=False)
    torch.testing.assert_close(our_logits(case, base, folder), peft_logits(case, base, folder))


def test_factors_find_their_place_by_module_and_not_by_shape(tmp_path: Path) -> None:
    """A square weight fits both ways round, so only the class of its module can tell."""
    case = Case(WRITER, lambda: gpt2(tied=False), lora("c_proj", "lm_head"))
    base, folder = write(case, tmp_path)
    checkpoint = Checkpoint.open(base)
    source = source_of(checkpoint, ExpertFiles(folder, checkpoint), WRITER)
    name = next(name for name in checkpoint.tensors if name.endswith("attn.c_proj.weight"))
    delta = source.delta(name)
    assert isinstance(delta, LowRank)
    stored = load_file(folder / "adapter_model.safetensors")
    module = "base_model.model.transformer.h.0.attn.c_proj"
    assert torch.equal(delta.down.t(), stored[f"{module}.lora_B.weight"])
    torch.testing.assert_close(delta.up.t(), stored[f"{module}.lora_A.weight"] * 7 / 3)


def test_an_adapter_writes_with_its_bases_settings(tmp_path: Path) -> None:
    case = of_llama(lora("q_proj"))
    base, folder = write(case, tmp_path)
    (base / "generation_config.json").write_text('{"eos_token_id": [3, 9], "max_new_tokens": 7}')
    peft = PeftModel.from_pretrained(model_class(case).from_pretrained(base), folder)
    head = read_head("task", ExpertFiles(folder, Checkpoint.open(base)), WRITER)
    assert head.generation is not None
    for name, value in head.generation.items():
        assert getattr(peft.base_model.generation_config, name) == value
    assert head.generation["eos_token_id"] == [3, 9]
