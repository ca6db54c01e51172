"""PEFT adapters against what PEFT itself makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import Expert, ExpertFiles, open_expert
from merging.kinds import ModelKind
from merging.learning.learn import learn_coefficients
from merging.models.coefficients import Coefficients
from merging.models.evaluate import evaluate
from merging.models.materialise import materialise
from merging.preflight.expert import check_expert
from merging.preflight.proof import prove
from merging.preflight.remarks import remarks
from merging.settings import MergeSettings
from merging.vectors.backbone import Backbone
from merging.vectors.deltas import dense_delta
from merging.vectors.expert_set import ExpertSet
from merging.vectors.mapped import TaskVectors, build_vectors
from merging.vectors.stacks import LowRankPart, ScalingPart
from tests.merging.tiny import text_table

KIND = ModelKind.TEXT_CLASSIFIER
CPU = torch.device("cpu")
LORA = LoraConfig(r=3, lora_alpha=7, task_type="SEQ_CLS", target_modules=["query", "dense"])
VARIANTS = {
    "lora": LORA,
    "rslora": LoraConfig(
        r=2, use_rslora=True, task_type="SEQ_CLS", target_modules=["query", "word_embeddings"]
    ),
    "patterns and biases": LoraConfig(
        r=2,
        bias="all",
        rank_pattern={"value": 4},
        alpha_pattern={"value": 3},
        task_type="SEQ_CLS",
        target_modules=["query", "value"],
    ),
    "ia3": IA3Config(
        task_type="SEQ_CLS",
        target_modules=["key", "value", "output.dense"],
        feedforward_modules=["output.dense"],
    ),
}


def write_adapter(
    base: Path, directory: Path, config: object, seed: int
) -> dict[str, torch.Tensor]:
    """An adapter as PEFT saves it, and its examples; gives the state that PEFT merges it into."""
    model = BertForSequenceClassification.from_pretrained(base, num_labels=3)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, config)
    trainable = [p for p in adapted.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trainable:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(directory)
    table = text_table(seed).replace({"label": {f"class-{i}": i for i in range(3)}})
    table.to_json(directory / "examples.jsonl", orient="records", lines=True)
    return dict(adapted.merge_and_unload().state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_with_coefficient_one_is_what_peft_merges(
    text_base: Path, tmp_path: Path, variant: str
) -> None:
    expected = write_adapter(text_base, tmp_path / "a", VARIANTS[variant], 1)
    base = Checkpoint.open(text_base)
    files = ExpertFiles(tmp_path / "a", base)
    assert check_expert(base, files, KIND) == ()
    expert = open_expert("task", files, KIND)
    assert prove(base, expert, KIND) == ()
    alone = ExpertSet.open(text_base, [expert], KIND)
    ones = Coefficients.constant(["task"], alone.names, 1.0)
    materialise(alone, ones, alone.heads, tmp_path / "out")
    merged = Checkpoint.open(tmp_path / "out/model")
    for name in merged.tensors:
        torch.testing.assert_close(
            merged.read(name), expected[f"bert.{name}"], rtol=1e-5, atol=1e-6, msg=name
        )
    assert torch.equal(expert.head.tensors["classifier.weight"], expected["classifier.weight"])
    gate = expert.split.gate
    own = evaluate(alone.backbone("task"), expert.head, gate, CPU)
    assert own == evaluate(Backbone.of(merged, KIND), expert.head, gate, CPU)


@pytest.fixture
def adapters(text_base: Path, tmp_path: Path) -> list[Expert]:
    for seed, variant in enumerate(VARIANTS):
        write_adapter(text_base, tmp_path / f"a{seed}", VARIANTS[variant], seed)
    base = Checkpoint.open(text_base)
    return [open_expert(f"t{i}", tmp_path / f"a{i}", KIND, base=base) for i in range(len(VARIANTS))]


@pytest.mark.parametrize("rows", [False, True])
def test_factored_products_equal_dense_ones(
    text_base: Path,
    text_experts: tuple[Expert, ...],
    adapters: list[Expert],
    tmp_path: Path,
    rows: bool,
) -> None:
    experts = [*adapters, text_experts[0]]
    mixed = ExpertSet.open(text_base, experts, KIND)
    base, names, sources = mixed.base, mixed.names, mixed.sources
    build_vectors(tmp_path / "v.safetensors", base, sources, names)
    vectors = TaskVectors(tmp_path / "v.safetensors")
    forms = {type(part) for name in names for part in vectors.stack(name).parts}
    assert {LowRankPart, ScalingPart} < forms
    torch.manual_seed(0)
    for name in names:
        shape = base.tensors[name].shape
        by_row = rows and len(shape) > 1
        zero = torch.zeros(shape)
        deltas = [dense_delta(source.delta(name), base, name) for source in sources]
        dense = torch.stack([zero if d is None else d for d in deltas])
        gradient = torch.randn(shape)
        products = (dense * gradient).flatten(1 + by_row).sum(-1)
        found = vectors.stack(name).inner(gradient, rows=by_row)
        torch.testing.assert_close(found, products, rtol=1e-4, atol=1e-5)
        c = torch.rand(products.shape)
        out = torch.zeros(shape)
        vectors.stack(name).add(out, c)
        wide = c.view(*c.shape, *[1] * (dense.ndim - c.ndim))
        torch.testing.assert_close(out, (dense * wide).sum(0), rtol=1e-4, atol=1e-5)


def test_adapters_and_full_checkpoints_learn_together(
    text_base: Path, text_experts: tuple[Expert, ...], adapters: list[Expert], tmp_path: Path
) -> None:
    experts = [adapters[0], text_experts[0], adapters[3]]
    settings = MergeSettings(steps=8, batch_size=64, learning_rate=0.05, objective="labels")
    mixed = ExpertSet.open(text_base, experts, KIND)
    learned = learn_coefficients(mixed, settings, work=tmp_path, device=CPU)
    losses = [sum(record.losses.values()) for record in learned.history[1:]]
    assert losses[-1] < losses[0]


def test_a_pickled_adapter_is_refused(text_base: Path, tmp_path: Path) -> None:
    write_adapter(text_base, tmp_path / "a", VARIANTS["lora"], 1)
    weights = tmp_path / "a/adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    base = Checkpoint.open(text_base)
    assert check_expert(base, ExpertFiles(tmp_path / "a", base), KIND)


def test_an_adapter_says_nothing_of_its_labels_names(text_base: Path, tmp_path: Path) -> None:
    """PEFT saves no config.json: the head tells how many there are, and indices or LABEL_0 are read."""
    write_adapter(text_base, tmp_path / "a", VARIANTS["lora"], 1)
    base = Checkpoint.open(text_base)
    expert = open_expert("task", tmp_path / "a", KIND, base=base)
    assert expert.head.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert any("put its config.json beside it" in remark for remark in remarks(expert))
    table = tmp_path / "a/examples.jsonl"
    text_table(1).to_json(table, orient="records", lines=True)
    with pytest.raises(InvalidInput, match=r"model\.config\.save_pretrained\(folder\)"):
        open_expert("task", tmp_path / "a", KIND, base=base)
    names = {i: f"class-{i}" for i in range(3)}
    BertForSequenceClassification.from_pretrained(text_base, id2label=names).config.save_pretrained(
        tmp_path / "a"
    )
    assert open_expert("task", tmp_path / "a", KIND, base=base).head.labels == tuple(names.values())


def test_an_adapter_alone_is_no_model(text_base: Path, tmp_path: Path) -> None:
    write_adapter(text_base, tmp_path / "a", VARIANTS["lora"], 1)
    with pytest.raises(InvalidInput, match="Open it with its base"):
        open_expert("task", tmp_path / "a", KIND)
