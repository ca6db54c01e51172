"""Tiny but real experts: BERT classifiers of two layers, trained in a second or two."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from tests.tiny_tokenizer import SPECIAL, write_tokenizer

FILLERS = [f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou"]
TOPICS = {
    "weather": (["rain", "storm", "cold"], ["sun", "warm", "dry"]),
    "food": (["soup", "salt", "stew"], ["cake", "sugar", "jam"]),
    "sport": (["ball", "goal", "team"], ["race", "swim", "jump"]),
}
_WORDS = [*FILLERS, *(w for sides in TOPICS.values() for side in sides for w in side)]


def write_base(directory: Path) -> Path:
    """A base checkpoint with a WordPiece tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(_WORDS),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(directory)
    write_tokenizer(directory, _WORDS)
    return directory


def write_table(task: str, rows: int, seed: int) -> pd.DataFrame:
    """Sentences of fillers with words of one side of a topic among them; the side is the label."""
    rng = random.Random(f"{task}{seed}")
    texts = {}
    while len(texts) < rows:
        side = rng.randrange(2)
        words = rng.choices(FILLERS, k=rng.randint(3, 6)) + rng.choices(TOPICS[task][side], k=2)
        rng.shuffle(words)
        texts[" ".join(words)] = f"side-{side}"
    return pd.DataFrame({"text": list(texts), "label": list(texts.values())})


def write_expert(
    base: Path, directory: Path, task: str, *, shuffled: bool = False, seed: int = 0
) -> Path:
    """A fine-tuned expert folder; with ``shuffled`` labels it has learnt nothing true."""
    torch.manual_seed(seed)
    train = write_table(task, 600, seed=seed + 1)
    if shuffled:
        train["label"] = train["label"].sample(frac=1, random_state=seed).to_numpy()
    names = {0: "side-0", 1: "side-1"}
    model = BertForSequenceClassification.from_pretrained(
        base, id2label=names, label2id={v: k for k, v in names.items()}
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    batch = tokenizer(train["text"].tolist(), padding=True, return_tensors="pt")
    labels = torch.tensor([int(label[-1]) for label in train["label"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for step in range(20 if shuffled else 60):
        rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step))[:64]
        loss = model(**{k: v[rows] for k, v in batch.items()}, labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_table(task, 500, seed=seed + 1000).to_parquet(directory / "examples.parquet")
    return directory
