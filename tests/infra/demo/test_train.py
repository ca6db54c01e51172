"""Training, on a BERT of two layers and a corpus of four words."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, BertTokenizer

from infra.demo.tasks import DemoTask
from infra.demo.train import Recipe, TrainingStep, train_expert

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "fine", "bad", "poor")
RECIPE = Recipe(epochs=4, batch_size=8, backbone_rate=1e-3)


def _read(_folder: Path) -> pd.DataFrame:
    rows = [
        (f"{first} {second} {'good ' * (i % 4)}".strip(), "yes" if first in WORDS[5:7] else "no")
        for i in range(4)
        for first in WORDS[5:]
        for second in WORDS[5:]
    ]
    table = pd.DataFrame(rows, columns=pd.Index(["text", "label"]))
    return table.assign(group=table["text"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def task() -> DemoTask:
    return DemoTask("tiny-words", lambda cache: cache, _read, train=40, calibration=8, gate=16)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    BertTokenizer(vocab=vocabulary).save_pretrained(base)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS), num_hidden_layers=2, num_attention_heads=2, **sizes
        )
        BertModel(config).save_pretrained(base)
    return base


@pytest.fixture(scope="module")
def expert(task: DemoTask, base: Path, cache: Path) -> Path:
    return train_expert(task, base, cache / "experts", recipe=RECIPE)


def test_an_expert_is_a_checkpoint_with_label_names(expert: Path, base: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(expert)
    assert model.config.id2label == {0: "no", 1: "yes"}
    before, after = load_file(base / "model.safetensors"), load_file(expert / "model.safetensors")
    changed = [name for name in before if not torch.equal(before[name], after[f"bert.{name}"])]
    assert len(changed) == len(before)
    assert (expert / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_its_examples_are_the_rows_it_did_not_see(
    expert: Path, task: DemoTask, cache: Path
) -> None:
    table, examples = task.table(cache), pd.read_parquet(expert / "examples.parquet")
    assert list(examples.columns) == ["text", "label", "split"]
    assert examples["split"].value_counts().to_dict() == {"gate": 16, "calibration": 8}
    assert not set(examples["text"]) & set(table[table["split"] == "train"]["text"])


def test_training_again_gives_the_same_expert_without_a_step(
    expert: Path, task: DemoTask, base: Path, cache: Path
) -> None:
    steps: list[TrainingStep] = []
    again = train_expert(task, base, cache / "experts", recipe=RECIPE, progress=steps.append)
    assert again == expert
    assert steps == []


def test_training_elsewhere_gives_the_same_weights_and_reports_every_step(
    expert: Path, task: DemoTask, base: Path, cache: Path, tmp_path: Path
) -> None:
    steps: list[TrainingStep] = []
    other = train_expert(task, base, tmp_path, recipe=RECIPE, cache=cache, progress=steps.append)
    assert (other / "model.safetensors").read_bytes() == (expert / "model.safetensors").read_bytes()
    assert [step.step for step in steps] == list(range(1, 21))
    assert all(math.isfinite(step.loss) for step in steps)


def test_a_spoilt_expert_has_its_own_place_and_the_true_examples(
    expert: Path, task: DemoTask, base: Path, cache: Path
) -> None:
    spoilt = train_expert(task, base, cache / "experts", recipe=RECIPE, shuffle_labels=True)
    assert spoilt != expert
    true = pd.read_parquet(expert / "examples.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(spoilt / "examples.parquet"), true)


def test_an_interrupted_training_leaves_nothing_behind(
    task: DemoTask, base: Path, cache: Path, tmp_path: Path
) -> None:
    def interrupt(_step: TrainingStep) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_expert(task, base, tmp_path, recipe=RECIPE, cache=cache, progress=interrupt)
    assert not list(tmp_path.iterdir())
