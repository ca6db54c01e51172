"""The exact gradient of the coefficients without a graph over the experts.

For θm(j) = θp(j) + Σi c(i,j) τ(i,j) the chain rule gives ∂L/∂c(i,j) = ⟨∂L/∂θm(j), τ(i,j)⟩. A hook
runs as soon as the gradient of one merged tensor is final. In a step's last backward it takes the
inner products with that tensor's stack, updates the coefficients, writes the new merged tensor and
frees the gradient, so that every task vector is read while it is warm and nothing waits in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from merging.coefficients import Coefficients
from merging.errors import NonFinite
from merging.vectors import TaskVectors
from merging.weights import TensorWeights


class StreamedMerge:
    """Merged parameters that follow their coefficients.

    Args:
        parameters: The merged parameters of the task models, by canonical name.
        vectors: Base and task vectors of those names.
        weights: What is learned, by the same names. One object for all names is one coefficient
            per expert; it is updated at the end of a step.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        vectors: TaskVectors,
        weights: Mapping[str, TensorWeights],
    ) -> None:
        self.parameters = parameters
        self.vectors = vectors
        self.weights = weights
        self.last_backward = False
        self.step = 0
        self._shared = len({id(w) for w in weights.values()}) < len(weights)
        self._inner: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(partial(self._gradient_is_final, name))
        self.rebuild()

    def finish_step(self) -> None:
        """Updates what the hooks of the step's last backward could not."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:  # used by other tasks, but not by the last one
                self._take_gradient(name, parameter)
        if self._shared and self._inner:
            total = torch.stack(list(self._inner.values())).sum(0)
            next(iter(self.weights.values())).update(total, self.step)
            self.rebuild()
        self._inner.clear()

    def rebuild(self) -> None:
        """Writes every merged parameter from its coefficients."""
        for name, parameter in self.parameters.items():
            self._write(name, parameter)
            self.vectors.release(name)

    def coefficients(self, tasks: tuple[str, ...]) -> Coefficients:
        """The effective coefficients as they are now."""
        return Coefficients(tasks, {n: self.weights[n].coefficients() for n in self.parameters})

    def _gradient_is_final(self, name: str, parameter: Tensor) -> None:
        if self.last_backward:
            self._take_gradient(name, parameter)

    @torch.no_grad()
    def _take_gradient(self, name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        weights = self.weights[name]
        inner = inner_products(parameter.grad, self.vectors.stack(name), rows=weights.w.ndim == 2)
        parameter.grad = None
        inner = inner.cpu()
        if not bool(torch.isfinite(inner).all()):
            raise NonFinite(
                f"{name}: expected finite gradients in step {self.step}, found NaN or infinity. "
                "Nothing was updated with them; lower learning_rate or look at the examples."
            )
        if self._shared:
            self._inner[name] = inner
        else:
            weights.update(inner, self.step)
            self._write(name, parameter)
        self.vectors.release(name)

    @torch.no_grad()
    def _write(self, name: str, parameter: Tensor) -> None:
        write_merged(
            parameter,
            self.vectors.base(name),
            self.vectors.stack(name),
            self.weights[name].coefficients(),
        )


def inner_products(gradient: Tensor, stack: Tensor, *, rows: bool) -> Tensor:
    """⟨gradient, τi⟩ for every expert i.

    Args:
        gradient: ∂L/∂θm, [*shape].
        stack: Task vectors, [experts, *shape].
        rows: One product per first index of the tensor instead of one for all of it.

    Returns:
        [experts] or [experts, rows].
    """
    stack = stack.to(gradient.device, gradient.dtype)
    if not rows:
        return stack.flatten(1) @ gradient.flatten()
    by_row = stack.flatten(2).transpose(0, 1)  # [rows, experts, columns]
    return torch.bmm(by_row, gradient.flatten(1).unsqueeze(2)).squeeze(2).t()


def write_merged(out: Tensor, base: Tensor, stack: Tensor, coefficients: Tensor) -> None:
    """out ← base + Σi coefficients[i] · stack[i], in place.

    Args:
        out: [*shape].
        base: [*shape].
        stack: [experts, *shape].
        coefficients: [experts] or [experts, rows].
    """
    out.copy_(base)
    stack = stack.to(out.device, out.dtype)
    coefficients = coefficients.to(out.device, out.dtype)
    if coefficients.ndim == 1:
        out.view(-1).addmv_(stack.flatten(1).t(), coefficients)
        return
    by_row = stack.flatten(2).transpose(0, 1)  # [rows, experts, columns]
    rows = out.view(out.shape[0], 1, -1)
    rows.baddbmm_(coefficients.t().unsqueeze(1), by_row)
