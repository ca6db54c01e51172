"""Merges without training, for comparison and as starting points.

Each function gives what is added to the base, by canonical tensor name. All task vectors of a tensor
are in memory at once; of the whole model only the result is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from merging.vectors.expert_set import ExpertSet
from merging.vectors.spectral import iso_c_tensor, tsv_m_tensors

KEPT = 0.2  # Share of each task vector that TIES keeps.
DROPPED = 0.9  # Share of each task vector that DARE drops.


def average(experts: ExpertSet) -> dict[str, Tensor]:
    """The mean of the task vectors (Wortsman et al., 2022)."""
    return {name: stack.mean(0) for name, stack in experts.stacks()}


def task_arithmetic(experts: ExpertSet) -> dict[str, Tensor]:
    """The sum of the task vectors (Ilharco et al., 2023); it is to be scaled."""
    return {name: stack.sum(0) for name, stack in experts.stacks()}


def ties(experts: ExpertSet, kept: float = KEPT) -> dict[str, Tensor]:
    """TIES (Yadav et al., 2023): trim each task vector, elect signs, mean of those that agree."""
    magnitudes: list[list[Tensor]] = [[] for _ in experts.experts]
    for _, stack in experts.stacks():
        for column, delta in zip(magnitudes, stack, strict=True):
            column.append(delta.abs().flatten())
    thresholds = torch.stack([_threshold(torch.cat(column), kept) for column in magnitudes])
    magnitudes.clear()
    return {name: ties_tensor(stack, thresholds) for name, stack in experts.stacks()}


def ties_tensor(stack: Tensor, thresholds: Tensor) -> Tensor:
    """TIES of one tensor, [experts, *shape] to [*shape], below `thresholds` [experts] trimmed."""
    wide = thresholds.view(-1, *[1] * (stack.ndim - 1))
    trimmed = torch.where(stack.abs() >= wide, stack, 0.0)
    sign = trimmed.sum(0).sign()
    agreeing = torch.where((trimmed.sign() == sign) & (trimmed != 0), trimmed, 0.0)
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp_min(1)


def dare(experts: ExpertSet, dropped: float = DROPPED, seed: int = 0) -> dict[str, Tensor]:
    """DARE (Yu et al., 2024): drop entries at random, rescale the rest, sum."""
    generator = torch.Generator().manual_seed(seed)
    total = {}
    for name, stack in experts.stacks():
        kept = torch.rand(stack.shape, generator=generator) >= dropped
        total[name] = (stack * kept / (1 - dropped)).sum(0)
    return total


def tsv_m(experts: ExpertSet) -> dict[str, Tensor]:
    """TSV-M (Gargiulo et al., 2025) for matrices, the mean for the rest."""
    return {
        name: tsv_m_tensors(stack).sum(0) if stack.ndim == 3 else stack.mean(0)
        for name, stack in experts.stacks()
    }


def iso_c(experts: ExpertSet) -> dict[str, Tensor]:
    """Iso-C (Marczak et al., 2025) for matrices, the mean for the rest."""
    return {
        name: iso_c_tensor(stack.sum(0)) if stack.ndim == 3 else stack.mean(0)
        for name, stack in experts.stacks()
    }


METHODS: dict[str, Callable[[ExpertSet], dict[str, Tensor]]] = {
    "average": average,
    "task-arithmetic": task_arithmetic,
    "ties": ties,
    "dare": dare,
    "tsv-m": tsv_m,
    "iso-c": iso_c,
}


def _threshold(magnitudes: Tensor, kept: float) -> Tensor:
    position = max(1, round(magnitudes.numel() * (1 - kept)))
    return magnitudes.kthvalue(position).values
