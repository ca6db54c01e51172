"""Merges of matrices by their singular values: TSV-M and Iso-C."""

from __future__ import annotations

import torch
from torch import Tensor


def tsv_m_tensors(stack: Tensor) -> Tensor:
    """Each expert's share of a TSV-M merge, [experts, rows, columns].

    Every task vector keeps its leading singular directions, a K-th of them, and the directions of
    all experts are made orthogonal to one another (§4.2 of the paper).
    """
    num_experts, rows, columns = stack.shape
    rank = max(1, min(rows, columns) // num_experts)
    lefts, values, rights = torch.linalg.svd(stack, full_matrices=False)
    left = _orthogonal(torch.cat(list(lefts[:, :, :rank]), 1))
    right = _orthogonal(torch.cat(list(rights[:, :rank].transpose(1, 2)), 1))
    shares = [
        (left[:, part] * values[i, :rank]) @ right[:, part].t()
        for i, part in enumerate(slice(i * rank, (i + 1) * rank) for i in range(num_experts))
    ]
    return torch.stack(shares)


def iso_c_tensor(total: Tensor) -> Tensor:
    """A matrix with all singular values at their mean."""
    left, values, right = torch.linalg.svd(total, full_matrices=False)
    return values.mean() * (left @ right)


def _orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal matrix nearest to one (Procrustes)."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right
