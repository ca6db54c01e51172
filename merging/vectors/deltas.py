"""Task vectors, τ = θ − θp, one tensor at a time and in the form in which the expert brings them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from merging.experts.adapters import Adapter, LowRank, Scaling, is_adapter
from merging.experts.checkpoint import Checkpoint
from merging.experts.examples import ModelKind
from merging.experts.expert import Expert
from merging.experts.heads import Head
from merging.serving import assemble

CACHED = 1 << 18  # numbers that are worked on at a time: 1 MB of fp32

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
class CombinedSource:
    """A merge of experts, itself merged further: τ = Σ c(i) τ(i)."""

    base: Checkpoint
    members: Sequence[Source]
    values: Mapping[str, Tensor]  # coefficients, fp32 [members] or [members, rows]

    def delta(self, name: str) -> Tensor | None:
        """fp32 in the tensor's shape, summed in the members' order."""
        if name not in self.values:
            return None
        zero = torch.zeros(self.base.tensors[name].shape)
        blocks = summed_blocks(zero, self.base, self.members, self.values[name], name)
        return torch.cat(list(blocks)).view(zero.shape)


def source_of(base: Checkpoint, expert: Expert, kind: ModelKind) -> Source:
    """The task vector of an expert directory, full or adapter."""
    if is_adapter(expert.directory):
        return open_adapter(expert.directory, base, expert.head, kind)
    return FullSource(base, Checkpoint.open(expert.directory))


def open_adapter(directory: Path, base: Checkpoint, head: Head, kind: ModelKind) -> Adapter:
    """The task vector of an adapter directory.

    Raises:
        InvalidInput: A kind of adapter, or a tensor in it, that has no place in the base.
    """
    return Adapter.open(directory, base, parameter_names(base, head, kind), head.tensors)


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
    terms: list[tuple[Tensor, bool, Tensor]] = []  # tensor, whether it is a difference, coefficient
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


def backbone_names(checkpoint: Checkpoint, kind: ModelKind) -> list[str]:
    """The tensors that are merged for a kind of model; generators have no head of their own."""
    if kind == "generator":
        return list(checkpoint.tensors)
    return [name for name in checkpoint.tensors if name not in checkpoint.head]


def parameter_names(base: Checkpoint, head: Head, kind: ModelKind) -> dict[str, list[str]]:
    """Trainable parameters of a task model that each tensor of the base is loaded into."""
    model, used = _loaded(base, head, kind)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: paths for name, paths in used.items() if trainable.intersection(paths)}


def rebuilt_names(base: Checkpoint, head: Head, kind: ModelKind) -> set[str]:
    """Tensors of the base that no parameter or buffer of the task model is.

    transformers joins the experts of a mixture, for one, into one parameter while it loads them.
    Unused ones, such as a pooler that the task model does not have, are among these too.
    """
    model, used = _loaded(base, head, kind)
    buffers = tuple(name for name, _ in model.named_buffers())
    names = (name for name in backbone_names(base, kind) if name not in used)
    return {name for name in names if not any(b.endswith(name) for b in buffers)}


def _loaded(
    base: Checkpoint, head: Head, kind: ModelKind
) -> tuple[nn.Module, dict[str, list[str]]]:
    """A task model, and the parameters that each tensor of the base became.

    transformers renames tensors while it loads them, so the way back is the memory they share.
    """
    tensors = {name: base.read(name).float() for name in backbone_names(base, kind)}
    model = assemble(head.config, kind, {**tensors, **head.tensors})
    by_address = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    used: dict[str, list[str]] = {}
    for parameter, value in model.named_parameters(remove_duplicate=False):
        name = by_address.get(value.data_ptr())
        if name is not None and value.shape == tensors[name].shape:
            used.setdefault(name, []).append(parameter)
    return model, used


def mergeable_names(base: Path, experts: Sequence[Expert], kind: ModelKind) -> list[str]:
    """Canonical names of the tensors to merge: trainable in every task model, changed by an expert.

    Buffers, integer tensors, frozen tensors and what only the base has (an unused pooler) are left
    to the base.
    """
    source = Checkpoint.open(base)
    used = [set(parameter_names(source, expert.head, kind)) for expert in experts]
    common = set.intersection(*used) if used else set()
    sources = [source_of(source, expert, kind) for expert in experts]
    return [n for n in source.tensors if n in common and any(_changes(s, n) for s in sources)]


def _changes(source: Source, name: str) -> bool:
    delta = source.delta(name)
    return bool(torch.count_nonzero(delta)) if isinstance(delta, Tensor) else delta is not None
