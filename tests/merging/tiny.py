"""Tiny but real models: written by transformers, read from disk, with a tokenizer of their own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import (
    BartConfig,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

from merging.vectors.expert_set import ExpertSet
from tests.tiny_tokenizer import SPECIAL

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u")]


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


def bart_config(width: int) -> BartConfig:
    """One layer on either side; answers end with the token that ends targets."""
    sizes = {"layers": 1, "attention_heads": 2, "ffn_dim": 2 * width}
    return BartConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        d_model=width,
        **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in sizes.items()},
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        forced_eos_token_id=3,
    )


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


def first(experts: ExpertSet, count: int) -> ExpertSet:
    """A set of the first few experts of another."""
    return experts.only(experts.tasks[:count])


def save_expert(model: PreTrainedModel, directory: Path, examples: pd.DataFrame) -> Path:
    """An expert directory: the model as transformers saves it, and its examples."""
    model.save_pretrained(directory)
    examples.to_parquet(directory / "examples.parquet")
    return directory


@torch.no_grad()
def moved(model: PreTrainedModel, seed: int, scale: float = 0.05) -> PreTrainedModel:
    """The model, every parameter a little away from where it was."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def image_table(seed: int, count: int = 40) -> pd.DataFrame:
    """Noise images whose label is the brighter half."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        label = int(pixels[:8].mean() > pixels[8:].mean())
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append({"image": buffer.getvalue(), "label": label})
    return pd.DataFrame(rows)


def generation_table(seed: int, count: int = 40) -> pd.DataFrame:
    """Word lists whose target is their last word first."""
    return pd.DataFrame(
        {"input": text, "target": " ".join(reversed(text.split()[-2:]))}
        for text in text_table(seed, count)["text"]
    )
