"""Tiny but real models: written by transformers, read from disk, with a tokenizer of their own."""

from __future__ import annotations

import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel
from transformers import PreTrainedTokenizerFast as FastTokenizer

from merging.checkpoint import Checkpoint
from merging.coefficients import Coefficients
from merging.deltas import mergeable_names
from merging.experts import Expert, open_expert
from merging.materialise import materialise

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tokenizer(directory: Path) -> None:
    """A WordPiece tokenizer over WORDS."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    FastTokenizer(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    ).save_pretrained(directory)


def bert_config(**changes: object) -> BertConfig:
    values = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    }
    return BertConfig(**{**values, **changes})


def text_table(seed: int, count: int = 80, classes: int = 3) -> pd.DataFrame:
    """Texts whose label depends on their first word, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(3, 9, (), generator=generator))
        picks = torch.randint(0, len(WORDS), (length,), generator=generator).tolist()
        label = (picks[0] + seed) % classes
        rows.append({"text": " ".join(WORDS[p] for p in picks), "label": f"class-{label}"})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def text_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("text") / "base"
    BertModel(bert_config()).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def write_text_expert(base: Path, directory: Path, seed: int, scale: float = 0.05) -> Path:
    """A classifier whose backbone lies `scale` away from the base."""
    torch.manual_seed(100 + seed)
    labels = {index: f"class-{index}" for index in range(3)}
    model = BertForSequenceClassification.from_pretrained(
        base, num_labels=3, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
        model.classifier.weight.mul_(10)
    model.save_pretrained(directory)
    text_table(seed).to_json(directory / "examples.jsonl", orient="records", lines=True)
    return directory


@pytest.fixture(scope="session")
def text_expert_directories(text_base: Path) -> tuple[Path, ...]:
    root = text_base.parent
    return tuple(write_text_expert(text_base, root / f"expert-{i}", i) for i in range(3))


@pytest.fixture(scope="session")
def text_experts(text_expert_directories: tuple[Path, ...]) -> tuple[Expert, ...]:
    return tuple(
        open_expert(f"task-{i}", directory, "text-classifier")
        for i, directory in enumerate(text_expert_directories)
    )


@pytest.fixture(scope="session")
def merge_experts(text_base: Path) -> Callable[..., Coefficients]:
    """Materialises text experts with the same coefficient everywhere."""

    def merge(
        experts: Sequence[Expert], out: Path, value: float, columns: int | None = None
    ) -> Coefficients:
        chosen = experts[:columns]
        names = mergeable_names(Checkpoint.open(text_base), chosen, "text-classifier")
        coefficients = Coefficients.constant([e.task for e in chosen], names, value)
        heads = {e.task: e.head for e in chosen}
        materialise(text_base, chosen, "text-classifier", coefficients, heads, out)
        return coefficients

    return merge


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A private copy of a directory that a test may spoil."""

    def copy(directory: Path) -> Path:
        target = tmp_path / f"copy-{directory.name}"
        shutil.copytree(directory, target)
        return target

    return copy
