"""The numbers that are learned, with their Adam state: w of the coefficients, and heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.99)  # short memories, since a run has tens of steps
EPSILON = 1e-8
LARGEST = 0.9999  # of a coefficient that is to be written as tanh(w)


class Adam:
    """Adam (Kingma & Ba, 2015) for one tensor."""

    def __init__(self, like: Tensor) -> None:
        self.mean = torch.zeros_like(like)
        self.square = torch.zeros_like(like)

    @torch.no_grad()
    def step(self, value: Tensor, gradient: Tensor, number: int, learning_rate: float) -> None:
        """Changes `value` in place; `number` counts steps from 1."""
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = math.sqrt(1 - BETAS[1] ** number)
        size = learning_rate * scale / (1 - BETAS[0] ** number)
        value.addcdiv_(self.mean, self.square.sqrt().add_(EPSILON * scale), value=-size)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {f"{prefix}.mean": self.mean, f"{prefix}.square": self.square}

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        """Takes over what `state` gave."""
        self.mean.copy_(state[f"{prefix}.mean"])
        self.square.copy_(state[f"{prefix}.square"])


class TensorWeights:
    """The coefficients of one tensor, c = tanh(w) or c = w, with w fp32 on the CPU.

    By rows w[i, r] = shared[i] + own[i, r]: a tensor's rows start together, or as they were learned
    before, and move together until `rows_learn`. Each step then draws them back to what they share by
    `row_decay`, so that rows with little evidence stay with their tensor.

    Args:
        start: Coefficients, [experts] or [experts, rows].
        rows: Rows to give a coefficient of their own once they learn; 0 for none.
        fixed: Column whose coefficients stay exactly as they start.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        tanh: bool,
        learning_rate: float,
        rows: int = 0,
        row_learning_rate: float = 0.0,
        row_decay: float = 0.0,
        fixed: int | None = None,
    ) -> None:
        self.tanh = tanh
        self.learning_rate = learning_rate
        self.row_learning_rate = row_learning_rate
        self.row_decay = row_decay
        self.fixed = fixed
        self.start = start
        w = start.clamp(-LARGEST, LARGEST).atanh() if tanh else start.clone()
        self.shared = w if w.ndim == 1 else w.mean(1)
        self.own: Tensor | None = None
        if rows or w.ndim == 2:
            self.own = w - self.shared[:, None] if w.ndim == 2 else w.new_zeros(len(w), rows)
        self.rows_learn = False
        self._adam = Adam(self.shared)
        self._row_adam = None if self.own is None else Adam(self.own)

    @property
    def by_row(self) -> bool:
        """Whether a tensor's rows have, or may get, coefficients that differ."""
        return self.rows_learn or self.start.ndim == 2

    def coefficients(self) -> Tensor:
        """Effective coefficients, [experts] or [experts, rows]."""
        values = self._w()
        values = values.tanh() if self.tanh else values.clone()
        if self.fixed is not None:
            values[self.fixed] = self.start[self.fixed]
        return values

    def update(self, inner: Tensor, step: int) -> None:
        """One Adam step.

        Args:
            inner: ∂L/∂c = ⟨∂L/∂θm, τ⟩, [experts], or [experts, rows] where `by_row` is set.
            step: Number of this step, from 1.
        """
        gradient = inner * (1 - self._w().tanh().square_()) if self.tanh else inner
        if self.by_row:
            assert self.own is not None
            assert self._row_adam is not None
            if self.rows_learn:
                self._row_adam.step(self.own, gradient, step, self.row_learning_rate)
                self.own.mul_(1 - self.row_decay)
            gradient = gradient.sum(1)
        self._adam.step(self.shared, gradient, step, self.learning_rate)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        found = {"shared": self.shared, **self._adam.state("shared")}
        if self.own is not None and self._row_adam is not None:
            found |= {"own": self.own, **self._row_adam.state("own")}
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        self.shared.copy_(state["shared"])
        self._adam.load(state, "shared")
        if self.own is not None and self._row_adam is not None:
            self.own.copy_(state["own"])
            self._row_adam.load(state, "own")

    def _w(self) -> Tensor:
        if not self.by_row:
            return self.shared
        assert self.own is not None
        return self.shared[:, None] + self.own


class HeadWeights:
    """A head's parameter, drawn back to where it started (L2-SP, Li et al., 2018).

    Heads have far more numbers than there are calibration examples; without the pull they fit those
    by heart.
    """

    def __init__(self, parameter: nn.Parameter, learning_rate: float, decay: float) -> None:
        self.parameter = parameter
        self.learning_rate = learning_rate
        self.decay = decay
        self.start = parameter.detach().clone()
        self._adam = Adam(self.start)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """One Adam step with the gradient that the parameter has; frees it."""
        if self.parameter.grad is not None:
            self._adam.step(self.parameter, self.parameter.grad, step, self.learning_rate)
            self.parameter.lerp_(self.start, self.decay)
            self.parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {"value": self.parameter.detach(), **self._adam.state("value")}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        self.parameter.copy_(state["value"])
        self._adam.load(state, "value")
