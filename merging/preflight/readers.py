"""Whether an expert reads its inputs, texts or images, as the base does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoImageProcessor

from merging.preflight.mismatch import Mismatch

TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)
PREPROCESSOR = "preprocessor_config.json"
IMAGE_KEYS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)


def compare_tokenizers(base_dir: Path, expert_dir: Path) -> Iterator[Mismatch]:
    """Each vocabulary file of the expert that is not the base's."""
    for name in TOKENIZER_FILES:
        ours, theirs = base_dir / name, expert_dir / name
        if ours.exists() and theirs.exists() and _vocabulary(ours) != _vocabulary(theirs):
            yield Mismatch("tokenizer", f"the base's {name}", "another vocabulary")


def compare_image_processors(base_dir: Path, expert_dir: Path) -> Iterator[Mismatch]:
    """The merged model prepares images as the base does, so experts must have been trained on that."""
    if not all((directory / PREPROCESSOR).exists() for directory in (base_dir, expert_dir)):
        return
    try:
        ours, theirs = (
            json.loads(
                AutoImageProcessor.from_pretrained(directory, backend="pil").to_json_string()
            )
            for directory in (base_dir, expert_dir)
        )
    except (OSError, ValueError) as error:
        yield Mismatch(PREPROCESSOR, "a readable image processor", str(error)[:200])
        return
    for key in IMAGE_KEYS:
        if ours.get(key) != theirs.get(key):
            yield Mismatch(f"preprocessor.{key}", f"{ours.get(key)!r}", f"{theirs.get(key)!r}")


def _vocabulary(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        try:
            parsed = json.loads(content)
        except ValueError:
            return f"unreadable {hashlib.sha256(content).hexdigest()}"
        # Truncation and padding are settings of the last call, not part of the tokenizer.
        kept = {k: v for k, v in parsed.items() if k not in ("truncation", "padding")}
        content = json.dumps(kept, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()
