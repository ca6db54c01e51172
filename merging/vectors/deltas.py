"""Task vectors, τ = θ − θp, one tensor at a time and in the form in which the expert brings them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles
from merging.experts.forms import LowRank, Scaling
from merging.kinds import ModelKind

if TYPE_CHECKING:
    from merging.experts.adapted import Change

CACHED = 1 << 18  # Numbers that are worked on at a time: 1 MB of fp32 stays in the cache.

Delta = Tensor | LowRank | Scaling | None


class Source(Protocol):
    """Something that has a task vector."""

    def delta(self, name: str) -> Delta:
        """The task vector of one tensor; None where it is zero by construction."""
        ...


@dataclass(frozen=True)
class FullSource:
    """A full checkpoint: τ is a difference of two tensors."""

    base: Checkpoint
    expert: Checkpoint

    def delta(self, name: str) -> Tensor | None:
        """fp32 in the tensor's shape; None for a tensor that the expert does not have."""
        if name not in self.expert.tensors:
            return None
        return self.expert.read(name).float() - self.base.read(name).float()


@dataclass(frozen=True)
class AdapterSource:
    """An adapter: τ in factors, and as a tensor where it brought one whole."""

    base: Checkpoint
    changes: Mapping[str, Change]

    def delta(self, name: str) -> Delta:
        """See `Source`; None for a tensor that the adapter leaves alone."""
        change = self.changes.get(name)
        return None if change is None else change.delta(self.base.read(name))


@dataclass(frozen=True)
class CombinedSource:
    """A merge of experts, itself merged further: τ = Σ c(i) τ(i).

    Attributes:
        values: The members' coefficients by tensor, fp32 [members] or [members, rows].
    """

    base: Checkpoint
    members: Sequence[Source]
    values: Mapping[str, Tensor]

    def delta(self, name: str) -> Tensor | None:
        """fp32 in the tensor's shape, summed in the members' order."""
        if name not in self.values:
            return None
        zero = torch.zeros(self.base.tensors[name].shape)
        blocks = summed_blocks(zero, self.base, self.members, self.values[name], name)
        return torch.cat(list(blocks)).view(zero.shape)


def source_of(base: Checkpoint, files: ExpertFiles, kind: ModelKind) -> Source:
    """The task vector of an expert, full or adapter.

    Args:
        base: The base checkpoint.
        files: The expert's model.
        kind: The kind of model.

    Raises:
        InvalidInput: A kind of adapter, or a tensor in it, that has no place in the base.
    """
    if files.is_adapter:
        return AdapterSource(base, files.adapted(kind).changes)
    return FullSource(base, files.checkpoint)


def summed_blocks(
    start: Tensor, base: Checkpoint, sources: Sequence[Source], coefficients: Tensor, name: str
) -> Iterator[Tensor]:
    """The sum start + Σ coefficients[i] · τ(i), bit for bit the same on every machine.

    Args:
        start: In the tensor's shape.
        base: The base checkpoint.
        sources: In column order.
        coefficients: fp32 [sources] or [sources, rows].
        name: Canonical name of the tensor.

    Yields:
        Blocks of rows, fp32 [rows, numbers of a row], that stay in the processor's cache while all
        sources are added to them.
    """
    shape = (start.shape[0], -1) if start.ndim else (1, 1)
    original = base.read(name).view(shape)
    # Each term is a tensor, whether it is a task vector already, and its coefficient.
    terms: list[tuple[Tensor, bool, Tensor]] = []
    for source, coefficient in zip(sources, coefficients, strict=True):
        if isinstance(source, FullSource) and name in source.expert.tensors:
            terms.append((source.expert.read(name).view(shape), False, coefficient))
            continue
        delta = dense_delta(source.delta(name), base, name)
        if delta is not None:
            terms.append((delta.view(shape), True, coefficient))
    start = start.view(shape)
    size = max(1, CACHED // max(1, start.shape[1]))
    scratch = torch.empty(min(size, start.shape[0]), start.shape[1])
    for first in range(0, start.shape[0], size):
        block = slice(first, first + size)
        total = start[block].to(torch.float32, copy=True)
        base_block = original[block].float()
        for tensor, is_delta, coefficient in terms:
            part = scratch[: len(total)]
            delta = tensor[block].float()
            if not is_delta:
                delta = torch.sub(delta, base_block, out=part)
            # A product and a sum, each rounded once: a fused multiply-add would round otherwise.
            weight = coefficient[block, None] if coefficient.ndim else coefficient
            total += torch.mul(delta, weight, out=part)
        yield total


def dense_delta(delta: Delta, base: Checkpoint, name: str) -> Tensor | None:
    """The task vector as a tensor of the base's shape, fp32; not to be changed, since it may be kept."""
    if isinstance(delta, LowRank | Scaling):
        return delta.dense(base.read(name).float())
    return delta


def stacked_deltas(base: Checkpoint, sources: Sequence[Source], name: str) -> Tensor:
    """All task vectors of one tensor, fp32 [sources, *shape]; zeros where a source has none."""
    zero = torch.zeros(base.tensors[name].shape)
    deltas = [dense_delta(source.delta(name), base, name) for source in sources]
    return torch.stack([zero if delta is None else delta for delta in deltas])
