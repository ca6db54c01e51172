"""The numbers that are learned, with their Adam state: w of the coefficients, and heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from merging.learning.adam import Adam, adam_step, multiply

LARGEST = 0.9999  # The largest coefficient that is written as tanh(w).


class TensorWeights:
    """The coefficients of one tensor, c = tanh(w) or c = w, with w fp32.

    By rows w[i, r] = shared[i] + own[i, r]: a tensor's rows start together, or as they were learned
    before, and move together until `rows_learn`. Each step then draws them back to what they share by
    `row_decay`, so that rows with little evidence stay with their tensor.

    Args:
        start: Coefficients, [experts] or [experts, rows], on the device where they are learned.
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
        self.adam = Adam(self.shared)
        self.row_adam = None if self.own is None else Adam(self.own)

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

    def gradient(self, inner: Tensor) -> Tensor:
        """∂L/∂w for ∂L/∂c = ⟨∂L/∂θm, τ⟩, [experts], or [experts, rows] where `by_row` is set."""
        return inner * (1 - self._w().tanh().square_()) if self.tanh else inner

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        state = {"shared": self.shared, **self.adam.state("shared")}
        if self.own is not None and self.row_adam is not None:
            state |= {"own": self.own, **self.row_adam.state("own")}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        self.shared.copy_(state["shared"])
        self.adam.load(state, "shared")
        if self.own is not None and self.row_adam is not None:
            self.own.copy_(state["own"])
            self.row_adam.load(state, "own")

    def _w(self) -> Tensor:
        if not self.by_row:
            return self.shared
        assert self.own is not None
        return self.shared[:, None] + self.own


def update(weights: Sequence[TensorWeights], inner: Sequence[Tensor], step: int) -> None:
    """One Adam step of several tensors' weights, which have the same rates.

    Args:
        weights: The weights of different tensors.
        inner: ∂L/∂c = ⟨∂L/∂θm, τ⟩ of each, [experts], or [experts, rows] where `by_row` is set.
        step: Number of this step, from 1.
    """
    gradients = [w.gradient(products) for w, products in zip(weights, inner, strict=True)]
    learning = [i for i, w in enumerate(weights) if w.rows_learn]
    if learning:
        own = [w.own for w in weights if w.rows_learn and w.own is not None]
        states = [w.row_adam for w in weights if w.rows_learn and w.row_adam is not None]
        rate, decay = weights[0].row_learning_rate, weights[0].row_decay
        adam_step(states, own, [gradients[i] for i in learning], step, rate)
        multiply(own, 1 - decay)
    shared = [g.sum(1) if w.by_row else g for w, g in zip(weights, gradients, strict=True)]
    states = [w.adam for w in weights]
    adam_step(states, [w.shared for w in weights], shared, step, weights[0].learning_rate)


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
            adam_step(
                [self._adam], [self.parameter], [self.parameter.grad], step, self.learning_rate
            )
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
