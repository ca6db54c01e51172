"""Where models are computed: a CUDA device or the CPU."""

from __future__ import annotations

import torch

from infra.errors import Unavailable


def choose_device(wanted: str) -> torch.device:
    """The device of a family: ``auto`` is CUDA where there is one, else the CPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise Unavailable(
            "The family file asks for `device: cuda`, but this worker has no CUDA device.",
            "Run the worker where there is one, or write `device: auto`.",
        )
    cuda = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")
