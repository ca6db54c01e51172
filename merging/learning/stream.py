"""The exact gradient of the coefficients without a graph over the experts.

For θm(j) = θp(j) + Σi c(i,j) τ(i,j) the chain rule gives ∂L/∂c(i,j) = ⟨∂L/∂θm(j), τ(i,j)⟩. A hook
runs as soon as the gradient of one merged tensor is final. In a step's last backward it takes the
inner products with that tensor's stack, updates the coefficients, writes the new merged tensor and
frees the gradient, so that every task vector is read while it is warm and nothing waits in memory.
(An accelerator that has room for all task vectors does it in another order: see resident.py.)

Of an embedding a step needs a few rows only. Their gradient is sparse, and rows are written when a
forward pass asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from merging.learning.lookups import watch
from merging.learning.merge import effective, is_shared, precise, write_sum
from merging.learning.watch import Watch
from merging.learning.weights import TensorWeights, update
from merging.models.coefficients import Coefficients
from merging.vectors.feed import Feed, MappedFeed
from merging.vectors.mapped import TaskVectors

ROWS = 512  # Rows of an embedding that are in memory at a time.


class StreamedMerge:
    """Merged parameters that follow their coefficients.

    Args:
        parameters: The merged parameters of the task models, by canonical name.
        vectors: Base and task vectors of those names.
        weights: What is learned, by the same names. One object for all names is one coefficient
            per expert; it is updated at the end of a step.
        lookups: Embeddings that are the only users of a parameter, by its name. Rows are written each
            time they are read, so what a forward pass sees never depends on the passes before it, and
            a run that goes on sees what it would have seen.
        feed: How tiles get to the parameters' device; None where that is the CPU.

    Attributes:
        watch, last_backward, step: See `Merge`.
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
        self.watch = Watch(at_once=all(p.device.type == "cpu" for p in parameters.values()))
        self._shared = is_shared(weights)
        self._inner: list[Tensor] = []
        self._lookups = dict(lookups or {})
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(partial(self._gradient_is_final, name))
            self._write(name, parameter)
        for name, embeddings in self._lookups.items():
            for embedding in embeddings:
                embedding.sparse = True
                watch(embedding, partial(self._write_rows, name))

    def finish_step(self, losses: Sequence[Tensor] = ()) -> list[float]:
        """See `Merge`: updates what the hooks of the step's last backward could not."""
        self.last_backward = False
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:  # Other tasks use it, but not the last one.
                self._take_gradient(name, parameter)
        values = self.watch.look(losses)
        if self._inner:
            total = torch.stack(self._inner).sum(0)
            update([next(iter(self.weights.values()))], [total], self.step)
            self._inner.clear()
            self.rebuild()
        return values

    def rebuild(self) -> None:
        """Writes every merged parameter from its coefficients, but for rows that wait for use."""
        for name, parameter in self.parameters.items():
            if name not in self._lookups:
                self._write(name, parameter)

    def coefficients(self, tasks: tuple[str, ...]) -> Coefficients:
        """See `Merge`."""
        return effective(self.weights, tasks)

    def _gradient_is_final(self, name: str, parameter: Tensor) -> None:
        if self.last_backward:
            self._take_gradient(name, parameter)

    @torch.no_grad()
    def _take_gradient(self, name: str, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        gradient = precise(gradient)
        weights = self.weights[name]
        if gradient.is_sparse:
            inner = self._sparse_inner(name, gradient.coalesce())
        else:
            inner = self._inner_products(name, gradient, rows=weights.by_row)
        self.watch.add(name, f"finite gradients in step {self.step}", inner)
        if self._shared:
            self._inner.append(inner)
            return
        update([weights], [inner], self.step)
        if name not in self._lookups:
            self._write(name, parameter)

    def _inner_products(self, name: str, gradient: Tensor, *, rows: bool) -> Tensor:
        """⟨gradient, τi⟩, [experts] or [experts, rows]."""
        parts = []
        for tile in self.vectors.tiles(name):
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
        if not len(rows):  # A batch looked up nothing but padding.
            return gradient.values().new_zeros(self.vectors.num_experts)
        for some, values in zip(rows.split(ROWS), gradient.values().split(ROWS), strict=True):
            _, stack = self.feed.rows(name, some)
            parts.append(stack.inner(values, rows=False))
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def _write(self, name: str, parameter: Tensor) -> None:
        coefficients = self.weights[name].coefficients()
        for tile in self.vectors.tiles(name):
            base, stack = self.feed.tile(name, tile)
            some = coefficients[:, tile] if coefficients.ndim == 2 else coefficients
            write_sum(parameter[tile], base, stack, some)
            self._let_go(name, tile)
        self.vectors.release(name)

    def _let_go(self, name: str, tile: slice) -> None:
        """Unmaps a tile of a large stack; a stack of one tile is still wanted, and warm."""
        if tile != slice(None):
            self.vectors.release(name)

    @torch.no_grad()
    def _write_rows(self, name: str, rows: Tensor | None) -> None:
        """Writes what a forward pass is about to read of an embedding: some rows, or all for None.

        It may have been read in this pass before, with the same values; so autograd is not told.
        """
        weight = self.parameters[name].data
        if rows is None:
            self._write(name, weight)
            return
        coefficients = self.weights[name].coefficients()
        for some in rows.unique().split(ROWS):
            base, stack = self.feed.rows(name, some.cpu())
            values = base.to(weight.dtype)
            stack.add(values, coefficients)
            weight[some] = values
