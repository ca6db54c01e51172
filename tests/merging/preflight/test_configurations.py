"""A setting is refused if the base answers otherwise under it, and by nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    BartForConditionalGeneration,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
    SwinConfig,
    SwinModel,
)

from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles
from merging.kinds import ModelKind
from merging.preflight.configurations import compare_configurations
from tests.merging.tiny import bart_config, bert_config

TEXTS, IMAGES, WRITERS = ModelKind
LLAMA = LlamaConfig(
    vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
)
DEBERTA = DebertaV2Config(
    vocab_size=40,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    relative_attention=True,
    pos_att_type=["c2p", "p2c"],
)
MODELS = {
    "bert": lambda: BertModel(bert_config()),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=40, dim=8, n_layers=1, n_heads=2, hidden_dim=8)
    ),
    "gpt2": lambda: GPT2Model(
        GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=32)
    ),
    "llama": lambda: LlamaModel(LLAMA),
    "deberta": lambda: DebertaV2Model(DEBERTA),
    "swin": lambda: SwinModel(
        SwinConfig(
            image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[1], window_size=2
        )
    ),
    "llama writes": lambda: LlamaForCausalLM(LLAMA),
    "bart writes": lambda: BartForConditionalGeneration(bart_config(8)),
}


def kind_of(name: str) -> ModelKind:
    return WRITERS if name.endswith("writes") else IMAGES if name == "swin" else TEXTS


def differences(folder: Path, name: str, without: str = "", **changes: object) -> list[str]:
    torch.manual_seed(0)
    model: PreTrainedModel = MODELS[name]()
    model.save_pretrained(folder / "base")
    expert = Path(shutil.copytree(folder / "base", folder / "expert"))
    config = json.loads((expert / "config.json").read_text())
    config.pop(without, None)
    (expert / "config.json").write_text(json.dumps({**config, **changes}))
    base, files = Checkpoint.open(folder / "base"), ExpertFiles(expert)
    return [m.tensor for m in compare_configurations(base, files, kind_of(name))]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {"hidden_dropout_prob": 0.3, "classifier_dropout": 0.3, "use_cache": False}),
        ("bert", {"num_labels": 7, "problem_type": "single_label_classification"}),
        ("distilbert", {"dropout": 0.2, "attention_dropout": 0.2, "seq_classif_dropout": 0.3}),
        ("gpt2", {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "summary_first_dropout": 0.3}),
        ("llama", {"attention_dropout": 0.1, "pad_token_id": 3}),
        ("deberta", {"pos_att_type": "c2p|p2c", "cls_dropout": 0.2}),
        ("swin", {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.1}),
        ("llama writes", {"attention_dropout": 0.1}),
        ("bart writes", {"activation_dropout": 0.3, "num_beams": 4}),
    ],
)
def test_a_setting_that_changes_nothing_is_free(
    tmp_path: Path, name: str, changes: dict[str, object]
) -> None:
    assert differences(tmp_path, name, **changes) == []


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("bert", {"hidden_act": "relu", "hidden_dropout_prob": 0.3}, ["hidden_act"]),
        ("bert", {"layer_norm_eps": 1e-3}, ["layer_norm_eps"]),
        ("bert", {"is_decoder": True}, ["is_decoder"]),
        ("bert", {"num_attention_heads": 4}, ["num_attention_heads"]),
        ("llama", {"hidden_size": 16}, ["hidden_size"]),
        (
            "llama",
            {"rms_norm_eps": 0.1, "num_hidden_layers": 3},
            ["num_hidden_layers", "rms_norm_eps"],
        ),
        ("deberta", {"pos_att_type": "c2p"}, ["pos_att_type"]),
        ("swin", {"window_size": 4}, ["window_size"]),
        ("bart writes", {"scale_embedding": True}, ["scale_embedding"]),
    ],
)
def test_a_setting_that_changes_what_the_base_answers_is_named(
    tmp_path: Path, name: str, changes: dict[str, object], named: list[str]
) -> None:
    assert differences(tmp_path, name, **changes) == [f"config.{key}" for key in named]


def test_a_setting_that_one_side_leaves_to_its_default_is_compared_too(tmp_path: Path) -> None:
    MODELS["silu"] = lambda: BertModel(bert_config(hidden_act="silu"))
    assert differences(tmp_path, "silu", without="hidden_act") == ["config.hidden_act"]


def test_another_architecture_is_one_difference(tmp_path: Path) -> None:
    assert differences(tmp_path, "bert", model_type="roberta") == ["config.model_type"]


def test_a_model_is_not_built_that_claims_far_more_numbers_than_its_files_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16,384 wide it would take 5 GB; it is found out where tensors take none."""
    built: list[int] = []
    real = LlamaModel.from_pretrained
    monkeypatch.setattr(
        LlamaModel,
        "from_pretrained",
        lambda *a, config, **more: (
            built.append(config.hidden_size),
            real(*a, config=config, **more),
        )[1],
    )
    changes = {"hidden_size": 1 << 14, "intermediate_size": 1 << 14}
    assert "config.hidden_size" in differences(tmp_path, "llama", **changes)
    assert set(built) == {8}
