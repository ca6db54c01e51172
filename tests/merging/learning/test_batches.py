from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from merging.errors import InvalidInput
from merging.experts.examples import split_examples
from merging.kinds import ModelKind
from merging.learning.batches import encode_examples
from merging.serving import Encoder
from tests.merging.tiny import image_table

KIND = ModelKind.IMAGE_CLASSIFIER


def encoder(directory: Path, **settings: object) -> Encoder:
    ViTImageProcessorPil(size={"height": 16, "width": 16}, **settings).save_pretrained(directory)
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=16, intermediate_size=8))
    return Encoder(directory, KIND, model)


def test_images_mapped_from_a_file_are_those_in_memory(tmp_path: Path) -> None:
    examples = split_examples(image_table(0), KIND, ["dark", "bright"]).gate
    found = encoder(tmp_path)
    kept = encode_examples(found, examples)
    for _ in range(2):  # written, and then read
        mapped = encode_examples(found, examples, images=tmp_path / "images")
        for row, other in zip(kept, mapped, strict=True):
            assert torch.equal(row["pixel_values"], other["pixel_values"])
            assert row["labels"] == other["labels"]


def test_images_of_two_sizes_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    rows = []
    for label, width in enumerate((16, 20)):
        buffer = io.BytesIO()
        Image.new("RGB", (width, 16)).save(buffer, "PNG")
        rows.append({"image": buffer.getvalue(), "label": label, "split": "gate"})
    examples = split_examples(pd.DataFrame(rows), KIND, ["dark", "bright"]).gate
    with pytest.raises(InvalidInput, match="preprocessor_config"):
        encode_examples(encoder(tmp_path, do_resize=False), examples, images=tmp_path / "images")
    assert not list((tmp_path / "images").iterdir())
