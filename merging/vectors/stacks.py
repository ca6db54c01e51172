"""All task vectors of one tensor together: inner products with a gradient, and weighted sums.

Each kind of task vector keeps its own form. Full checkpoints are one dense block, LoRA factors are
put side by side so that K adapters cost two products of total rank, and IA³ needs the base only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Numbers that are converted at a time. On a CPU 1 MB of fp32 stays in the cache until it is used; an
# accelerator wants few calls, and 64 MB is what a tile of task vectors takes anyway.
TILE = 1 << 18
ACCELERATOR_TILE = 1 << 24
LARGE = (
    1 << 14
)  # From so many numbers of a tensor on, calls cost less than a CPU's transposed product.

Rows = Tensor | slice  # int64 [rows], or a range of them
Change = Callable[[Tensor], Tensor]


class Part(Protocol):
    """Task vectors of one form."""

    @property
    def columns(self) -> Tensor:
        """Which experts they belong to, int64 [k]."""
        ...

    def inner(self, gradient: Tensor, *, rows: bool) -> Tensor:
        """⟨gradient, τi⟩ as [k], or by first index of the tensor as [k, rows]."""
        ...

    def add(self, out: Tensor, coefficients: Tensor) -> None:
        """Adds Σ coefficients[i] · τi to `out`, for coefficients [k] or [k, rows]."""
        ...

    def take(self, rows: Rows) -> Part:
        """The same for some rows (first indices) of the tensor."""
        ...

    def map(self, change: Change) -> Part:
        """The same with every tensor replaced by `change` of it."""
        ...


@dataclass(frozen=True)
class DensePart:
    """Task vectors held whole.

    Attributes:
        stack: [k, *shape] in fp32, bf16 or int8.
        scales: Of int8: what each row is multiplied with, fp32 [k, rows].
    """

    columns: Tensor
    stack: Tensor
    scales: Tensor | None = None

    def inner(self, gradient: Tensor, *, rows: bool) -> Tensor:
        """See `Part`."""
        if self.stack.dtype == gradient.dtype and not rows and self._flat():
            return self.stack.flatten(1) @ gradient.flatten()
        products = [
            torch.bmm(tile, gradient[start:stop].view(stop - start, -1, 1)).squeeze(2)
            for start, stop, tile in self._tiles(gradient)
        ]
        by_row = torch.cat(products).t()  # [k, rows]
        if self.scales is not None:
            by_row = by_row * self.scales.to(by_row.dtype)
        return by_row if rows else by_row.sum(1)

    def add(self, out: Tensor, coefficients: Tensor) -> None:
        """See `Part`."""
        coefficients = coefficients.to(out.dtype)
        if self.stack.dtype == out.dtype and coefficients.ndim == 1 and self._flat():
            if out.device.type == "cpu" and out.numel() >= LARGE:
                for delta, coefficient in zip(self.stack, coefficients.tolist(), strict=True):
                    out.add_(delta, alpha=coefficient)  # reads 4 x faster than the product below
            else:
                out.view(-1).addmv_(self.stack.flatten(1).t(), coefficients)
            return
        by_row = coefficients if coefficients.ndim == 2 else coefficients[:, None]
        if self.scales is not None:
            by_row = by_row * self.scales.to(by_row.dtype)
        by_row = by_row.expand(-1, out.shape[0]).t().unsqueeze(1)  # [rows, 1, k]
        for start, stop, tile in self._tiles(out):
            out[start:stop].view(stop - start, 1, -1).baddbmm_(by_row[start:stop], tile)

    def _flat(self) -> bool:
        """Whether an expert's numbers follow one another; in embeddings a row's experts do."""
        return self.stack[0].is_contiguous()

    def take(self, rows: Rows) -> DensePart:
        """See `Part`."""
        scales = None if self.scales is None else self.scales[:, rows]
        # Rows first: in an embedding's stack they are the outer index in memory.
        stack = self.stack.transpose(0, 1)[rows].transpose(0, 1)
        return DensePart(self.columns, stack, scales)

    def map(self, change: Change) -> DensePart:
        """See `Part`."""
        scales = None if self.scales is None else change(self.scales)
        return DensePart(change(self.columns), change(self.stack), scales)

    def _tiles(self, like: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Rows from, rows to, and their task vectors as [rows, k, columns] in the dtype of `like`."""
        by_row = self.stack.flatten(2) if self.stack.ndim > 2 else self.stack.unsqueeze(2)
        by_row = by_row.transpose(0, 1)
        num_rows = by_row.shape[0]
        size = num_rows
        if self.stack.dtype != like.dtype:
            tile = TILE if self.stack.device.type == "cpu" else ACCELERATOR_TILE
            size = max(1, tile // (by_row.shape[1] * by_row.shape[2]))
        for start in range(0, num_rows, size):
            stop = min(start + size, num_rows)
            yield start, stop, by_row[start:stop].to(like.dtype)


@dataclass(frozen=True)
class LowRankPart:
    """LoRA adapters side by side.

    Attributes:
        up: [rows, total rank].
        down: [total rank, columns].
        owner: Which of the k adapters a rank belongs to, int64 [total rank].
    """

    columns: Tensor
    up: Tensor
    down: Tensor
    owner: Tensor

    def inner(self, gradient: Tensor, *, rows: bool) -> Tensor:
        """⟨G, up·down⟩ = Σ up ⊙ (G downᵀ); the product of up and down is never built."""
        products = (gradient.flatten(1) @ self.down.to(gradient.dtype).t()) * self.up.to(
            gradient.dtype
        )
        if rows:
            by_adapter = products.new_zeros(len(self.columns), len(products))
            return by_adapter.index_add_(0, self.owner, products.t())
        return products.new_zeros(len(self.columns)).index_add_(0, self.owner, products.sum(0))

    def add(self, out: Tensor, coefficients: Tensor) -> None:
        """See `Part`."""
        weights = coefficients.to(out.dtype)[self.owner]  # [total rank] or [total rank, rows]
        up = self.up.to(out.dtype) * (weights if weights.ndim == 1 else weights.t())
        out.view(len(out), -1).addmm_(up, self.down.to(out.dtype))

    def take(self, rows: Rows) -> LowRankPart:
        """See `Part`."""
        return LowRankPart(self.columns, self.up[rows], self.down, self.owner)

    def map(self, change: Change) -> LowRankPart:
        """See `Part`."""
        return LowRankPart(
            change(self.columns), change(self.up), change(self.down), change(self.owner)
        )


@dataclass(frozen=True)
class ScalingPart:
    """IA³ adapters of one axis: τi = base ⊙ factor(i).

    Attributes:
        factors: l − 1, [k, size of the axis].
        base: [*shape].
        axis: 0 or 1.
    """

    columns: Tensor
    factors: Tensor
    base: Tensor
    axis: int

    def inner(self, gradient: Tensor, *, rows: bool) -> Tensor:
        """See `Part`."""
        weighted = (gradient * self.base.to(gradient.dtype)).view(len(gradient), -1)
        factors = self.factors.to(gradient.dtype)
        if self.axis == 0:
            by_row = factors * weighted.sum(1)
            return by_row if rows else by_row.sum(1)
        return factors @ weighted.t() if rows else factors @ weighted.sum(0)

    def add(self, out: Tensor, coefficients: Tensor) -> None:
        """See `Part`."""
        coefficients, factors = coefficients.to(out.dtype), self.factors.to(out.dtype)
        base = self.base.to(out.dtype).view(len(out), -1)
        if self.axis == 0:
            weights = coefficients if coefficients.ndim == 2 else coefficients[:, None]
            total = (weights * factors).sum(0)[:, None]
        else:
            total = coefficients.t() @ factors  # [columns] or [rows, columns]
        out.view(len(out), -1).addcmul_(base, total)

    def take(self, rows: Rows) -> ScalingPart:
        """See `Part`."""
        factors = self.factors[:, rows] if self.axis == 0 else self.factors
        return ScalingPart(self.columns, factors, self.base[rows], self.axis)

    def map(self, change: Change) -> ScalingPart:
        """See `Part`."""
        factors, base = change(self.factors), change(self.base)
        return ScalingPart(change(self.columns), factors, base, self.axis)


@dataclass(frozen=True)
class Stack:
    """Everything that is added to the base for one tensor."""

    num_experts: int
    parts: Sequence[Part]

    def inner(self, gradient: Tensor, *, rows: bool) -> Tensor:
        """⟨gradient, τi⟩ for every expert; zero for one without a task vector here.

        Args:
            gradient: ∂L/∂θm, [*shape].
            rows: One product per first index of the tensor instead of one for all of it.

        Returns:
            [experts] or [experts, rows] in the gradient's dtype.
        """
        if len(self.parts) == 1 and len(self.parts[0].columns) == self.num_experts:
            return self.parts[0].inner(gradient, rows=rows)
        shape = (self.num_experts, len(gradient)) if rows else (self.num_experts,)
        products = gradient.new_zeros(shape)
        for part in self.parts:
            products[part.columns] = part.inner(gradient, rows=rows)
        return products

    def add(self, out: Tensor, coefficients: Tensor) -> None:
        """Adds Σ coefficients[i] · τi to `out`, for coefficients [experts] or [experts, rows]."""
        for part in self.parts:
            whole = len(part.columns) == self.num_experts
            part.add(out, coefficients if whole else coefficients[part.columns])

    def take(self, rows: Rows) -> Stack:
        """The same for some rows (first indices) of the tensor; a view where they are a slice."""
        return Stack(self.num_experts, [part.take(rows) for part in self.parts])

    def tensors(self) -> list[Tensor]:
        """Every tensor that `map` would change, in its order."""
        noted: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            noted.append(tensor)
            return tensor

        self.map(note)
        return noted

    def map(self, change: Change) -> Stack:
        """The same with every tensor replaced by `change` of it (a copy on another device)."""
        return Stack(self.num_experts, [part.map(change) for part in self.parts])
