# ruff: noqa: SLF001 - torch's functions for many tensors, which its own optimizers call as well
"""Adam for one tensor, or for many in as few calls as for one.

On an accelerator a call costs the host some ten microseconds whatever its size, and a run has
hundreds of small tensors. On a CPU the same functions go through them one by one, with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.99)  # The memories are short, since a run has tens of steps.
EPSILON = 1e-8


class Adam:
    """Adam (Kingma & Ba, 2015) for one tensor."""

    def __init__(self, like: Tensor) -> None:
        self.mean = torch.zeros_like(like)
        self.square = torch.zeros_like(like)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {f"{prefix}.mean": self.mean, f"{prefix}.square": self.square}

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        """Takes over what `state` gave."""
        self.mean.copy_(state[f"{prefix}.mean"])
        self.square.copy_(state[f"{prefix}.square"])


@torch.no_grad()
def adam_step(
    states: Sequence[Adam],
    values: list[Tensor],
    gradients: list[Tensor],
    number: int,
    learning_rate: float,
) -> None:
    """Changes `values` in place.

    Args:
        states: The state of each value.
        values: What is learned, of any shapes.
        gradients: In the values' shapes.
        number: The number of this step, from 1.
        learning_rate: The rate of all of them.
    """
    means, squares = [s.mean for s in states], [s.square for s in states]
    torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
    torch._foreach_mul_(squares, BETAS[1])
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - BETAS[1])
    scale = math.sqrt(1 - BETAS[1] ** number)
    size = learning_rate * scale / (1 - BETAS[0] ** number)
    roots = list(torch._foreach_sqrt(squares))
    torch._foreach_add_(roots, EPSILON * scale)
    torch._foreach_addcdiv_(values, means, roots, value=-size)


def clear(values: list[Tensor]) -> None:
    """Makes each value zero in place."""
    torch._foreach_zero_(values)


def multiply(values: list[Tensor], factor: float) -> None:
    """Multiplies each value in place."""
    torch._foreach_mul_(values, factor)
