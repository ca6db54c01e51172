"""Whether a folder or prefix is a base that experts can be merged into."""

from __future__ import annotations

from collections.abc import Collection

from merging.errors import InvalidInput
from merging.kinds import ModelKind

TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)
PREPROCESSOR = "preprocessor_config.json"


def check_base(files: Collection[str], kind: ModelKind, where: str) -> None:
    """Whether a base's files are a checkpoint that can read inputs, by their names alone.

    Without vocabulary transformers would make up a tokenizer that knows no word, and say nothing.

    Raises:
        InvalidInput: Weights, configuration, or tokenizer or image processor are missing.
    """
    readers = (PREPROCESSOR,) if kind.reads_images else TOKENIZER_FILES
    has_weights = any(name.endswith(".safetensors") for name in files)
    if "config.json" not in files or not has_weights or not set(readers).intersection(files):
        raise InvalidInput(
            where=where,
            expected=f"a checkpoint: config.json, safetensors, and one of {', '.join(readers)}",
            found=", ".join(sorted(files)) or "nothing of the kind",
            remedy="Give the folder that `save_pretrained` of the model and of its tokenizer or image "
            "processor wrote.",
        )
