"""Which files of a folder transformers reads the weights of a model from, and which it does not.

The order is that of `from_pretrained`: `model.safetensors`, else the shards that
`model.safetensors.index.json` names. Whatever else ends in `.safetensors` (a moving average of the
weights, a variant such as `model.fp16.safetensors`, another library's `consolidated.safetensors`) is
not the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from merging.errors import InvalidInput
from merging.jsonfile import read_json

# transformers saves a model that is spread over processes in such files, each a part of every tensor.
_SPREAD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a checkpoint.

    Attributes:
        read: The names of those that are the model, in the order in which they are read.
        index: The file of each tensor, where an index says so.
        left_aside: Names of the other safetensors files, sorted.
    """

    read: tuple[str, ...]
    index: Mapping[str, str] | None
    left_aside: tuple[str, ...]


def find_weights(directory: Path, config: Mapping[str, Any]) -> WeightFiles:
    """The weight files of a checkpoint's folder.

    Args:
        directory: The folder.
        config: Its configuration.

    Raises:
        InvalidInput: transformers would find no weights there, or the index is not one.
    """
    present = sorted(path.name for path in directory.glob("*.safetensors") if path.is_file())
    spread = [name for name in present if _SPREAD.fullmatch(name)]
    named = config.get("transformers_weights")
    if spread or named:
        raise InvalidInput(
            where=str(directory),
            expected=f"weights in {SAFE_WEIGHTS_NAME}, or in the shards of its index",
            found=f"{spread[0]}, a part of every tensor"
            if spread
            else f"a file of its own: {named!r:.80}",
            remedy="Load the model with from_pretrained and save it with save_pretrained.",
        )
    index: dict[str, str] | None = None
    if SAFE_WEIGHTS_NAME in present:
        read = [SAFE_WEIGHTS_NAME]
    elif (directory / SAFE_WEIGHTS_INDEX_NAME).is_file():
        index = _read_index(directory / SAFE_WEIGHTS_INDEX_NAME, set(present))
        read = sorted(set(index.values()))
    else:
        raise _no_weights(directory, present)
    return WeightFiles(tuple(read), index, tuple(name for name in present if name not in read))


def _read_index(path: Path, present: set[str]) -> dict[str, str]:
    index = read_json(path)
    parts = index.get("weight_map") if isinstance(index, dict) else None
    whole = isinstance(parts, dict) and all(isinstance(name, str) for name in parts.values())
    if not parts or not whole or not isinstance(index.get("metadata"), dict):
        raise InvalidInput(
            where=str(path),
            expected="an index with `metadata` and `weight_map`, which names the file of each tensor",
            found="another document",
            remedy="Save the model again with save_pretrained.",
        )
    names = sorted(set(parts.values()))
    outside = [name for name in names if Path(name).name != name or "\\" in name or "\0" in name]
    if outside or (missing := [name for name in names if name not in present]):
        raise InvalidInput(
            where=str(path),
            expected="every shard that the index names, beside it",
            found=f"the path {outside[0]!r:.80}" if outside else f"{_some(missing)} missing",
            remedy="Upload the whole checkpoint directory again.",
        )
    return parts


def _no_weights(directory: Path, present: list[str]) -> InvalidInput:
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt*") for p in directory.glob(pattern))
    if present:
        remedy = (
            f"Name the model's file {SAFE_WEIGHTS_NAME}, or save it again with save_pretrained."
        )
    else:
        remedy = "Save the model with save_pretrained; pickled weights are never read."
    return InvalidInput(
        where=str(directory),
        expected=f"weights in {SAFE_WEIGHTS_NAME}, or in shards with {SAFE_WEIGHTS_INDEX_NAME}",
        found=f"only {_some(present or pickles)}" if present or pickles else "none",
        remedy=remedy,
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
