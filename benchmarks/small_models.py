"""A base and an expert of any architecture, small and random, saved as transformers saves them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast, ViTImageProcessorPil

from benchmarks.small_configs import IMAGE, SPECIAL, TOKENS, WORDS, Architecture
from merging.kinds import ModelKind

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
            write_tokenizer(place, bool(getattr(config, "type_vocab_size", 0)))


@torch.no_grad()
def move(model: PreTrainedModel, share: float, seed: int) -> None:
    """Moves every parameter by a share of its spread, so that answers differ."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        spread = float(parameter.float().std()) if parameter.numel() > 1 else 0.0
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.add_(noise * share * max(spread, 0.02))


def write_tokenizer(directory: Path, has_types: bool) -> None:
    """A tokenizer of words, which says of each token to which text of a pair it belongs if it has types."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", TOKENS["bos_token_id"]), ("[SEP]", TOKENS["eos_token_id"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    inputs = ["input_ids", "attention_mask"]
    inputs += ["token_type_ids"] if has_types else []
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        bos_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_max_length=32,
        model_input_names=inputs,
    ).save_pretrained(directory)


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
