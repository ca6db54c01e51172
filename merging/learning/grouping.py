"""Which experts are merged with which, level by level."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from merging.vectors.expert_set import ExpertSet


def chunks(count: int, size: int | None) -> list[list[int]]:
    """Consecutive indices in groups of at most `size`, as equal as they can be."""
    if size is None or count <= size:
        return [list(range(count))]
    number = -(-count // size)
    bounds = [round(i * count / number) for i in range(number + 1)]
    return [list(range(a, b)) for a, b in pairwise(bounds)]


def cosines(experts: ExpertSet) -> np.ndarray:
    """Cosine of every pair of task vectors, float64 [experts, experts]."""
    count = len(experts.experts)
    gram = torch.zeros(count, count, dtype=torch.float64)
    for _, stack in experts.stacks():
        vectors = stack.view(count, -1)
        gram += (vectors @ vectors.t()).double()
    norms = gram.diagonal().sqrt().clamp_min(1e-30)
    return np.asarray((gram / norms / norms[:, None]).clamp(-1, 1))


def similarity_order(cosine: np.ndarray) -> list[int]:
    """An order in which similar task vectors lie side by side (leaves of average linkage)."""
    if len(cosine) < 3:
        return list(range(len(cosine)))
    distance = np.clip(1 - cosine, 0, None)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform((distance + distance.T) / 2), "average")
    return [int(i) for i in leaves_list(tree)]
