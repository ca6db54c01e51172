"""Which experts are merged with which, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from merging.experts.checkpoint import Checkpoint
from merging.vectors.deltas import Source, stacked_deltas


def chunks(count: int, size: int | None) -> list[list[int]]:
    """Consecutive indices in groups of at most `size`, as equal as they can be."""
    if size is None or count <= size:
        return [list(range(count))]
    number = -(-count // size)
    bounds = [round(i * count / number) for i in range(number + 1)]
    return [list(range(a, b)) for a, b in pairwise(bounds)]


def cosines(base: Checkpoint, sources: Sequence[Source], names: Sequence[str]) -> np.ndarray:
    """Cosine of every pair of task vectors, float64 [sources, sources]."""
    gram = torch.zeros(len(sources), len(sources), dtype=torch.float64)
    for name in names:
        stack = stacked_deltas(base, sources, name).view(len(sources), -1)
        gram += (stack @ stack.t()).double()
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
