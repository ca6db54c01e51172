"""Tensors of old checkpoints that are no weights: constants which models today work out themselves.

Earlier releases of transformers saved rotary frequencies, position ids and attention masks with the
weights. The loader drops them without a word, so they are no part of the model here either.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PretrainedConfig

from merging.errors import InvalidInput
from merging.experts.configuration import backbone_class

# What the loader drops from every model. It warns of the last, which models before GPT-J's rewrite had.
_CONSTANTS = {r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", r"\.masked_bias$"}


def constants(directory: Path, config: PretrainedConfig, keys: Mapping[str, str]) -> frozenset[str]:
    """Names of the tensors that the loader drops, since the model has no place for them any more.

    Args:
        directory: The checkpoint's folder.
        config: Its configuration.
        keys: The name in the file of each tensor of the backbone, by its canonical name.

    Raises:
        InvalidInput: There are tensors that may be such, and the model cannot be built.
    """
    backbone = backbone_class(directory, config)
    patterns = _CONSTANTS | set(backbone._keys_to_ignore_on_load_unexpected or ())  # noqa: SLF001
    dropped = re.compile("|".join(f"({pattern})" for pattern in patterns))
    found = {name for name, key in keys.items() if dropped.search(key) or dropped.search(name)}
    return frozenset(found - _places(directory, config) if found else ())


def _places(directory: Path, config: PretrainedConfig) -> set[str]:
    try:
        with torch.device("meta"):  # where tensors take no memory
            model: Any = AutoModel.from_config(copy.deepcopy(config))
    except Exception as error:
        # A model may raise anything for sizes that do not belong together.
        raise InvalidInput(
            where=str(directory / "config.json"),
            expected="a configuration that a model can be built from",
            found=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            remedy="Save the model again with save_pretrained.",
        ) from error
    return set(model.state_dict())
