"""Tiny but real experts of one or two layers, trained in seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import torch
from transformers import (
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from merging.serving import Encoder
from tests.merging.tiny import WORDS, bart_config, image_table
from tests.tiny_tokenizer import SPECIAL, write_tokenizer

TOPICS = {
    "weather": (["rain", "storm", "cold"], ["sun", "warm", "dry"]),
    "food": (["soup", "salt", "stew"], ["cake", "sugar", "jam"]),
    "sport": (["ball", "goal", "team"], ["race", "swim", "jump"]),
}
_WORDS = [*WORDS, *(w for sides in TOPICS.values() for side in sides for w in side)]


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
        words = rng.choices(WORDS, k=rng.randint(3, 6)) + rng.choices(TOPICS[task][side], k=2)
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
    _train(model, {**batch, "labels": labels}, steps=20 if shuffled else 60, rate=2e-3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_table(task, 500, seed=seed + 1000).to_parquet(directory / "examples.parquet")
    return directory


def write_generator(base: Path, directory: Path) -> None:
    """A base without skills, and an expert that answers with the last of two words."""
    torch.manual_seed(0)
    model = BartForConditionalGeneration(bart_config(width=32))
    model.save_pretrained(base)
    write_tokenizer(base, WORDS)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    words = WORDS[:25]
    pairs = [(a, b) for a in words for b in words]
    random.Random(0).shuffle(pairs)
    table = pd.DataFrame({"input": [f"{a} {b}" for a, b in pairs], "target": [b for _, b in pairs]})
    inputs = tokenizer(table["input"].tolist(), return_tensors="pt")
    targets = tokenizer(table["target"].tolist(), add_special_tokens=False)["input_ids"]
    labels = torch.tensor([[token, tokenizer.eos_token_id] for (token,) in targets])
    _train(model, {"input_ids": inputs["input_ids"], "labels": labels}, steps=250)
    model.save_pretrained(directory)
    table.to_parquet(directory / "examples.parquet")


def write_image_classifier(base: Path, directory: Path) -> None:
    """A base without skills, and an expert that tells which half of an image is brighter."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**shape, intermediate_size=64, image_size=16, patch_size=8)
    ViTModel(config, add_pooling_layer=False).save_pretrained(base)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(base)
    names = {0: "below", 1: "above"}
    model = ViTForImageClassification.from_pretrained(base, id2label=names)
    table = image_table(0, count=500)
    rows = Encoder(base, "image-classifier", model).encode(table["image"].tolist())
    pixels = torch.stack([row["pixel_values"] for row in rows])
    _train(model, {"pixel_values": pixels, "labels": torch.tensor(table["label"])}, steps=150)
    model.save_pretrained(directory)
    table.to_parquet(directory / "examples.parquet")


def _train(
    model: PreTrainedModel, columns: dict[str, torch.Tensor], steps: int, rate: float = 3e-3
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        count = len(columns["labels"])
        rows = torch.randperm(count, generator=torch.Generator().manual_seed(step))[:64]
        loss = model(**{name: tensor[rows] for name, tensor in columns.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
