"""How large a model a configuration claims, found out before memory is taken for it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PretrainedConfig

from merging.experts.checkpoint import Checkpoint

# A model may have numbers that its files lack (a pooler, a copy of tied weights), but not many more.
CLAIMED = 4
SPARE = 1 << 20


def refuse_claim(cls: Any, config: PretrainedConfig, files: Checkpoint) -> None:
    """Compares the numbers of a model with those that its files hold.

    Args:
        cls: The class of transformers that would be made.
        config: What it would be made by.
        files: The weights that it would get.

    Raises:
        ValueError: It would have far more.
        Exception: The class cannot be made by this configuration.
    """
    with torch.device("meta"):  # where tensors take no memory
        claimed = sum(p.numel() for p in cls(copy.deepcopy(config)).parameters())
    held = sum(torch.Size(info.shape).numel() for info in files.tensors.values())
    if claimed > CLAIMED * held + SPARE:
        raise ValueError(f"config.json claims {claimed:,} numbers, the files hold {held:,}")
