"""A base and an expert of any architecture, small and random, saved as transformers saves them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from transformers import AutoModel, PreTrainedModel, ViTImageProcessorPil

from benchmarks.small_configs import IMAGE, WORDS, Architecture
from merging.kinds import ModelKind
from tests.tiny_tokenizer import write_tokenizer

EXAMPLES = 24


def save_models(one: Architecture, base: Path, directory: Path) -> None:
    """A base and an expert, with what reads their inputs."""
    config = one.config()
    whole = not one.kind.has_head or type(config) not in AutoModel._model_mapping  # noqa: SLF001
    model = (one.auto if whole else AutoModel).from_config(config)
    move(model, 1.0, seed=0)
    model.save_pretrained(base)
    expert = one.auto.from_pretrained(base, config=config)
    move(expert, 0.05, seed=1)
    expert.save_pretrained(directory)
    for place in (base, directory):
        if one.kind.reads_images:
            ViTImageProcessorPil(size={"height": IMAGE, "width": IMAGE}).save_pretrained(place)
        else:
            has_types = bool(getattr(config, "type_vocab_size", 0))
            write_tokenizer(place, WORDS, has_types=has_types)


@torch.no_grad()
def move(model: PreTrainedModel, share: float, seed: int) -> None:
    """Moves every number that learns by a share of its parameter's spread, so that answers differ."""
    generator = torch.Generator().manual_seed(seed)
    tables = {m.weight: m.padding_idx for m in model.modules() if isinstance(m, nn.Embedding)}
    for parameter in model.parameters():
        spread = float(parameter.float().std()) if parameter.numel() > 1 else 0.0
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if (padding := tables.get(parameter)) is not None:
            noise[padding] = 0  # An embedding's row of padding gets no gradient.
        parameter.add_(noise * share * max(spread, 0.02))


def examples(kind: ModelKind) -> pd.DataFrame:
    """Noise with labels or targets, texts of five to ten words."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(EXAMPLES):
        words = generator.choice(WORDS, size=5 + number % 6)
        label = ("dark", "bright", "grey")[number % 3]
        if kind.reads_images:
            buffer = io.BytesIO()
            pixels = generator.integers(0, 256, (IMAGE, IMAGE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG")
            rows.append({"image": buffer.getvalue(), "label": label})
        elif kind.has_head:
            rows.append({"text": " ".join(words), "label": label})
        else:
            rows.append({"input": " ".join(words), "target": " ".join(words[::-1][:2])})
    return pd.DataFrame(rows)
