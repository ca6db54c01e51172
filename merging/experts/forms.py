"""Task vectors in the form in which adapters bring them: factors, which take little memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """LoRA (Hu et al., 2021): τ = up · down, the scale folded into `up`.

    Attributes:
        up: fp32 [rows, rank].
        down: fp32 [rank, numbers of a row].
    """

    up: Tensor
    down: Tensor

    def fits(self, shape: torch.Size) -> bool:
        """Whether τ is a task vector of a tensor of that shape."""
        return (self.up.shape[0], self.down.shape[1]) == _as_matrix(shape)

    def dense(self, original: Tensor) -> Tensor:
        """τ in the shape of the base's tensor, summed rank by rank for the same bits everywhere."""
        total = torch.zeros(self.up.shape[0], self.down.shape[1])
        for up, down in zip(self.up.unbind(1), self.down.unbind(0), strict=True):
            total += up[:, None] * down
        return total.view(original.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        """What τ is made of."""
        return self.up, self.down


@dataclass(frozen=True)
class Scaling:
    """IA³ (Liu et al., 2022): τ = θp ⊙ (l − 1) along one axis.

    Attributes:
        factor: l − 1, fp32 [rows] or [numbers of a row].
        axis: 0 where the factor is by row, 1 where it is by what a row holds.
    """

    factor: Tensor
    axis: int

    def fits(self, shape: torch.Size) -> bool:
        """Whether τ is a task vector of a tensor of that shape."""
        return len(self.factor) == _as_matrix(shape)[self.axis]

    def dense(self, original: Tensor) -> Tensor:
        """τ in the shape of the base's tensor, `original`."""
        matrix = original.reshape(_as_matrix(original.shape))
        factor = self.factor[:, None] if self.axis == 0 else self.factor
        return (matrix * factor).view(original.shape)

    def tensors(self) -> tuple[Tensor, ...]:
        """What τ is made of."""
        return (self.factor,)


@dataclass(frozen=True)
class Rows:
    """Some rows of an embedding, learned by themselves (PEFT's trainable tokens).

    Attributes:
        indices: Which rows, int64 [k].
        values: What they became, fp32 [k, numbers of a row].
    """

    indices: Tensor
    values: Tensor

    def fits(self, shape: torch.Size) -> bool:
        """Whether a tensor of that shape has such rows."""
        rows, width = _as_matrix(shape)
        inside = bool(((self.indices >= 0) & (self.indices < rows)).all())
        return inside and self.values.shape == (len(self.indices), width)

    def dense(self, original: Tensor) -> Tensor:
        """τ in the shape of the base's tensor, `original`."""
        total = torch.zeros(original.shape)
        total[self.indices] = self.values - original[self.indices]
        return total

    def tensors(self) -> tuple[Tensor, ...]:
        """What τ is made of."""
        return self.indices, self.values


@dataclass(frozen=True)
class Whole:
    """A task vector that has no factors.

    Attributes:
        values: τ, fp32 in the shape of the base's tensor.
    """

    values: Tensor

    def fits(self, shape: torch.Size) -> bool:
        """Whether τ is a task vector of a tensor of that shape."""
        return self.values.shape == shape

    def dense(self, original: Tensor) -> Tensor:
        """τ in the shape of the base's tensor."""
        assert original.shape == self.values.shape
        return self.values

    def tensors(self) -> tuple[Tensor, ...]:
        """What τ is made of."""
        return (self.values,)


Form = LowRank | Scaling | Rows | Whole


def same(one: Form | Tensor | None, other: Form | Tensor | None) -> bool:
    """Whether two forms, or two tensors, are the same to the bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if one is None or other is None or type(one) is not type(other):
        return one is other
    assert not isinstance(one, Tensor)
    assert not isinstance(other, Tensor)
    axes = getattr(one, "axis", None) == getattr(other, "axis", None)
    return axes and all(map(torch.equal, one.tensors(), other.tensors()))


def _as_matrix(shape: torch.Size) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return rows, shape.numel() // max(1, rows)
