"""The numbers that are learned: w, one per expert and tensor (or row), and its Adam state."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BETAS = (0.9, 0.99)  # short memories, since a run has tens of steps
EPSILON = 1e-8
LARGEST = 0.9999  # of a coefficient that is to be written as tanh(w)


class TensorWeights:
    """w of one tensor, [experts] or [experts, rows], fp32 on the CPU.

    Attributes:
        w: The numbers; the coefficient is tanh(w), or w itself where `tanh` is off.
        frozen: Columns whose coefficients stay exactly as they started, bool [experts].
    """

    def __init__(self, start: Tensor, frozen: Tensor, *, tanh: bool, learning_rate: float) -> None:
        self.tanh = tanh
        self.learning_rate = learning_rate
        self.start = start.clone()
        self.frozen = frozen.view(-1, *[1] * (start.ndim - 1))
        self.any_frozen = bool(frozen.any())
        self.w = start.clamp(-LARGEST, LARGEST).atanh() if tanh else start.clone()
        self.mean = torch.zeros_like(start)
        self.square = torch.zeros_like(start)

    def coefficients(self) -> Tensor:
        """Effective coefficients in the shape of w."""
        values = self.w.tanh() if self.tanh else self.w.clone()
        return torch.where(self.frozen, self.start, values) if self.any_frozen else values

    def update(self, inner: Tensor, step: int) -> None:
        """One Adam step.

        Args:
            inner: ⟨∂L/∂θm, τ⟩ in the shape of w, which is ∂L/∂c (SuperMerge, eq. 3: c = tanh(w)).
            step: Number of this step, from 1.
        """
        gradient = inner
        if self.tanh:
            gradient = inner * (1 - self.w.tanh().square_())
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = math.sqrt(1 - BETAS[1] ** step)
        size = self.learning_rate * scale / (1 - BETAS[0] ** step)
        self.w.addcdiv_(self.mean, self.square.sqrt().add_(EPSILON * scale), value=-size)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {"w": self.w, "mean": self.mean, "square": self.square}

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        self.w, self.mean, self.square = state["w"], state["mean"], state["square"]
