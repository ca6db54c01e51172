"""The exact gradient of the coefficients without a graph over the experts.

For θm(j) = θp(j) + Σi c(i,j) τ(i,j) the chain rule gives ∂L/∂c(i,j) = ⟨∂L/∂θm(j), τ(i,j)⟩. A hook
runs as soon as the gradient of one merged tensor is final. In a step's last backward it takes the
inner products with that tensor's stack, updates the coefficients, writes the new merged tensor and
frees the gradient, so that every task vector is read while it is warm and nothing waits in memory.
Where all task vectors lie on an accelerator, the hook takes the inner products only: coefficients and
tensors follow at the end of the step, all together, in far fewer calls.

Of an embedding a step needs a few rows only. Their gradient is sparse, and rows are written when a
forward pass asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from merging.learning.watch import Watch
from merging.learning.weights import TensorWeights, update
from merging.models.coefficients import Coefficients
from merging.vectors.feed import Feed, MappedFeed
from merging.vectors.mapped import TaskVectors

ROWS = 512  # of an embedding that are in memory at a time


class StreamedMerge:
    """Merged parameters that follow their coefficients.

    Args:
        parameters: The merged parameters of the task models, by canonical name.
        vectors: Base and task vectors of those names.
        weights: What is learned, by the same names. One object for all names is one coefficient
            per expert; it is updated at the end of a step.
        lookups: Embeddings that are the only users of a parameter, by its name.
        feed: How tiles get to the parameters' device; None where that is the CPU.

    Attributes:
        watch: Where the caller, too, puts what has to be finite before anything is updated.
        last_backward: Set before the step's last backward.
        step: Number of the current step, from 1; set before its first backward.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        vectors: TaskVectors,
        weights: Mapping[str, TensorWeights],
        lookups: Mapping[str, Sequence[nn.Embedding]] | None = None,
        feed: Feed | None = None,
    ) -> None:
        self.parameters = parameters
        self.vectors = vectors
        self.feed = feed or MappedFeed(vectors)
        self.weights = weights
        self.last_backward = False
        self.step = 0
        self.watch = Watch(at_once=not self.feed.asynchronous)
        self._shared = len({id(w) for w in weights.values()}) < len(weights)
        self._inner: dict[str, Tensor] = {}
        # Where all task vectors are at hand, going through an embedding takes less time than asking
        # which of its rows are needed.
        self._lookups = {} if self.feed.at_hand else dict(lookups or {})
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(partial(self._gradient_is_final, name))
            self._write(name, parameter)
        for name, embeddings in self._lookups.items():
            for embedding in embeddings:
                embedding.sparse = True
                embedding.register_forward_pre_hook(partial(self._write_rows, name))

    def finish_step(self, losses: Sequence[Tensor] = ()) -> list[float]:
        """Updates what the hooks of the step's last backward could not.

        Args:
            losses: Of the step's micro-batches, scalars.

        Returns:
            The losses as numbers: this is where the processor waits for an accelerator.

        Raises:
            NonFinite: A loss or gradient is NaN or infinite.
        """
        self.last_backward = False
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:  # used by other tasks, but not by the last one
                self._take_gradient(name, parameter)
        values = self.watch.look(losses)
        inner, self._inner = self._inner, {}
        if inner and self._shared:
            total = torch.stack(list(inner.values())).sum(0)
            update([next(iter(self.weights.values()))], [total], self.step)
        elif inner:
            update([self.weights[n] for n in inner], list(inner.values()), self.step)
        if inner:
            self.rebuild()
        return values

    def rebuild(self) -> None:
        """Writes every merged parameter from its coefficients, but for rows that wait for use."""
        for name, parameter in self.parameters.items():
            if name not in self._lookups:
                self._write(name, parameter)

    def coefficients(self, tasks: tuple[str, ...]) -> Coefficients:
        """The effective coefficients as they are now."""
        values = {n: self.weights[n].coefficients().cpu() for n in self.parameters}
        return Coefficients(tasks, values)

    def _gradient_is_final(self, name: str, parameter: Tensor) -> None:
        if self.last_backward:
            self._take_gradient(name, parameter)

    @torch.no_grad()
    def _take_gradient(self, name: str, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        if gradient.dtype.itemsize < torch.float32.itemsize:
            gradient = gradient.float()  # sums of millions of products need the digits
        weights = self.weights[name]
        if gradient.is_sparse:
            inner = self._sparse_inner(name, gradient.coalesce())
        else:
            # Where something else uses an embedding too, it is a tensor like any other.
            self._lookups.pop(name, None)
            inner = self._inner_products(name, gradient, rows=weights.by_row)
        self.watch.add(name, f"finite gradients in step {self.step}", inner)
        if self._shared or self.feed.at_hand:
            self._inner[name] = inner.contiguous()  # alike, so that one call updates all of them
            return
        update([weights], [inner], self.step)
        if name not in self._lookups:
            self._write(name, parameter)

    def _inner_products(self, name: str, gradient: Tensor, *, rows: bool) -> Tensor:
        """⟨gradient, τi⟩, [experts] or [experts, rows]."""
        parts = []
        for tile in self.feed.tiles(name):
            _, stack = self.feed.tile(name, tile)
            parts.append(stack.inner(gradient[tile], rows=rows))
            self._let_go(name, tile)
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, 1) if rows else torch.stack(parts).sum(0)

    def _sparse_inner(self, name: str, gradient: Tensor) -> Tensor:
        """The same for a gradient that is there for some rows only, [experts]."""
        parts = []
        rows = gradient.indices()[0].cpu()
        for some, values in zip(rows.split(ROWS), gradient.values().split(ROWS), strict=True):
            _, stack = self.feed.rows(name, some)
            parts.append(stack.inner(values, rows=False))
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def _write(self, name: str, parameter: Tensor) -> None:
        coefficients = self.weights[name].coefficients()
        for tile in self.feed.tiles(name):
            base, stack = self.feed.tile(name, tile)
            part = parameter[tile]
            narrow = part.dtype.itemsize < base.dtype.itemsize
            merged = base.clone() if narrow else part.copy_(base)
            stack.add(merged, coefficients[:, tile] if coefficients.ndim == 2 else coefficients)
            if narrow:
                part.copy_(merged)  # rounded once, and not with every expert
            self._let_go(name, tile)
        self.vectors.release(name)

    def _let_go(self, name: str, tile: slice) -> None:
        """Unmaps a tile of a large stack; a stack of one tile is still wanted, and warm."""
        if tile != slice(None):
            self.vectors.release(name)

    @torch.no_grad()
    def _write_rows(self, name: str, embedding: nn.Embedding, inputs: tuple[Any, ...]) -> None:
        """Writes the rows that a forward pass is about to read."""
        if name in self._lookups:
            coefficients = self.weights[name].coefficients()
            for rows in inputs[0].unique().split(ROWS):
                base, stack = self.feed.rows(name, rows.cpu())
                values = base.to(embedding.weight.dtype)
                stack.add(values, coefficients)
                embedding.weight[rows] = values
