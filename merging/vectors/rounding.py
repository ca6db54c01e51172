"""The precision that a merged model is written in, and what rounding takes of a change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from merging.errors import NonFinite
from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.kinds import ModelKind
from merging.safefile import Spec
from merging.settings import WriteDtype
from merging.vectors.deltas import CACHED


def written_specs(
    base: Checkpoint, kind: ModelKind, write_dtype: WriteDtype, buffers: Collection[str] = ()
) -> dict[str, Spec]:
    """Shape and dtype of every tensor of a merged model, by canonical name.

    Args:
        base: The base checkpoint.
        kind: The kind of model.
        write_dtype: What its parameters are written in.
        buffers: Tensors that are no parameters; they and integers stay as the base has them.
    """
    specs = {}
    for name in backbone_names(base, kind):
        info = base.tensors[name]
        stays = write_dtype == "base" or name in buffers or not info.dtype.is_floating_point
        specs[name] = Spec(info.shape, info.dtype if stays else getattr(torch, write_dtype))
    return specs


def rounded(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Values of the merged tensor `name` in another dtype.

    Raises:
        NonFinite: A finite value has none there: float16 ends at 65,504.
    """
    written = values.to(dtype)
    if dtype == torch.float16 and bool((written.isinf() & values.isfinite()).any()):
        raise NonFinite(
            where=f"{name} of the merged model",
            expected=f"numbers up to {torch.finfo(dtype).max:,.0f}, the largest that float16 has",
            found=f"{float(values[values.isfinite()].abs().max()):,.0f}",
            remedy="Set write_dtype under merge in the family file to float32 or bfloat16.",
        )
    return written


EXPONENT = 0x7F800000  # The bits of a number of fp32 that say its power of two.


@dataclass
class Rounding:
    """What rounding takes of a change, summed over tensors.

    Attributes:
        change: ‖change‖².
        lost: ‖rounded − exact‖².
    """

    change: float = 0.0
    lost: float = 0.0

    def add(self, before: Tensor, exact: Tensor, written: Tensor) -> None:
        """Counts some values, all of one shape: before the change, after it, and as written."""
        self.change += square(exact - before)
        self.lost += square(exact - written.float())

    @property
    def share(self) -> float:
        """‖rounded − exact‖ ÷ ‖change‖; 0 where nothing changed."""
        return float((self.lost / self.change) ** 0.5) if self.change else 0.0


def own_rounding(values: Tensor, delta: Tensor) -> float:
    """Expected ‖rounding‖² of a stored tensor; 0 where its task vector is, which may be frozen.

    An error is taken to be even between two neighbours, so its mean square is spacing² ÷ 12.

    Args:
        values: As they are stored, fp16 or bf16.
        delta: Their task vector, in the same shape.
    """
    if not bool(torch.count_nonzero(delta)):
        return 0.0
    limits = torch.finfo(values.dtype)
    numbers = values.float().abs().clamp_min(limits.tiny)  # Below it spacing shrinks no further.
    power = (numbers.view(torch.int32) & EXPONENT).view(torch.float32)  # The power of two below.
    return square(power.mul_(limits.eps)) / 12


def square(values: Tensor) -> float:
    """‖values‖² of fp32, in blocks whose sums keep their digits and stay in the cache."""
    return sum(float(torch.dot(block, block)) for block in values.reshape(-1).split(CACHED))
