"""What a learning run knows of the merged parameters, wherever their task vectors are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from merging.learning.watch import Watch
from merging.learning.weights import TensorWeights
from merging.models.coefficients import Coefficients
from merging.vectors.stacks import Stack

Parameters = Mapping[str, nn.Parameter]  # by canonical name


class Merge(Protocol):
    """Merged parameters that follow their coefficients.

    Attributes:
        weights: What is learned, by canonical name. One object for all names is one coefficient per
            expert.
        watch: Where the caller, too, puts what has to be finite before anything is updated.
        last_backward: Set before the step's last backward.
        step: Number of the current step, from 1; set before its first backward.
    """

    weights: Mapping[str, TensorWeights]
    watch: Watch
    last_backward: bool
    step: int

    def finish_step(self, losses: Sequence[Tensor] = ()) -> list[float]:
        """Updates what the step's backward passes have not updated yet.

        Args:
            losses: Of the step's micro-batches, scalars.

        Returns:
            The losses as numbers: this is where the processor waits for an accelerator.

        Raises:
            NonFinite: A loss or gradient is NaN or infinite.
        """
        ...

    def rebuild(self) -> None:
        """Writes every merged parameter from its coefficients."""
        ...

    def coefficients(self, tasks: tuple[str, ...]) -> Coefficients:
        """The effective coefficients as they are now, on the CPU."""
        ...


def effective(weights: Mapping[str, TensorWeights], tasks: tuple[str, ...]) -> Coefficients:
    """See `Merge.coefficients`."""
    return Coefficients(tasks, {n: w.coefficients().cpu() for n, w in weights.items()})


def precise(gradient: Tensor) -> Tensor:
    """The gradient with digits enough for a sum of millions of products."""
    return gradient.float() if gradient.dtype.itemsize < torch.float32.itemsize else gradient


def write_sum(part: Tensor, base: Tensor, stack: Stack, coefficients: Tensor) -> None:
    """Part = base + Σ c(i) τ(i), rounded once where `part` has fewer digits than the base."""
    narrow = part.dtype.itemsize < base.dtype.itemsize
    merged = base.clone() if narrow else part.copy_(base)
    stack.add(merged, coefficients)
    if narrow:
        part.copy_(merged)


def is_shared(weights: Mapping[str, TensorWeights]) -> bool:
    """Whether one object is the weights of all tensors."""
    return len({id(w) for w in weights.values()}) < len(weights)
