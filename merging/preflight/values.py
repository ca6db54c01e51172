"""Whether the values of an expert's tensors are those of a fine-tuned base."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.preflight.mismatch import Mismatch
from merging.vectors.deltas import FullSource, Source, dense_delta
from merging.vectors.layout import Layout

# A task vector longer than so many times its base, ‖τ‖ / ‖θp‖ over all tensors, is no fine-tuning.
LARGEST_CHANGE = 10.0
# Matrices of two models that were trained apart have a cosine of about zero: .0002 in the median, .02 at
# most, for MiniLM and another start of it. Its experts have .9999, and with noise of ten times its size
# it has .1. Below this in the median a full checkpoint comes from another base.
LEAST_COSINE = 0.05
CHANCE = 5.0  # Standard deviations, one of which is the root of how many numbers there are.
ANOTHER_BASE = (
    "Register it with the family of the base that it was fine-tuned from, or fine-tune it again from this "
    "family's."
)
UNTRAINED = "There is nothing to merge: train some of the backbone too, or all of it."
CHANGE_LOST = (
    "a change of one that transformers joins with others, splits or leaves out while it loads"
)
LEAVE_IT = (
    "Such tensors (experts of a mixture, packed projections) cannot be merged: leave them as the base has "
    "them while fine-tuning."
)


def check_values(
    base: Checkpoint, source: Source, head: Head, layout: Layout, kind: ModelKind
) -> Iterator[Mismatch]:
    """Values that are not finite, changes that are lost, and a task vector of zero or out of all bounds."""
    for name, tensor in head.tensors.items():
        if not _finite(tensor):
            yield Mismatch(name, "finite values", "NaN or infinity")
    change, size, whole = 0.0, 0.0, True
    cosines, numbers = [], 0
    for name in backbone_names(base, kind):
        if not base.tensors[name].dtype.is_floating_point:
            continue
        delta = dense_delta(source.delta(name), base, name)
        original = base.read(name).float()
        size += float(original.square().sum(dtype=torch.float64))
        if delta is None:
            continue
        if isinstance(source, FullSource) and original.ndim > 1:
            numbers += original.numel()
            cosines.append(
                float(cosine_similarity(original.flatten(), (original + delta).flatten(), 0))
            )
        if not _finite(delta):
            whole = False
            yield Mismatch(name, "finite values", "NaN or infinity")
        if name not in layout.whole and bool(torch.count_nonzero(delta)):
            expected = "a parameter that transformers takes as it is, or the base's values"
            yield Mismatch(name, expected, CHANGE_LOST, LEAVE_IT)
        change += float(delta.square().sum(dtype=torch.float64))
    if whole and change == 0:
        apart = "apart from its head, " if kind.has_head else ""
        found = f"none: {apart}it is the base"
        yield Mismatch("task vector", "a difference from the base", found, UNTRAINED)
    elif whole and change > LARGEST_CHANGE**2 * size:
        ratio = f"{(change / size) ** 0.5:.1f} times the base" if size else "a base of zeros"
        yield Mismatch("task vector", f"at most {LARGEST_CHANGE:g} times the base", ratio)
    elif whole and cosines and median(cosines) < max(LEAST_COSINE, CHANCE / numbers**0.5):
        found = f"a cosine of {median(cosines):.2f} to the base's in the median: another model than the base"
        yield Mismatch("task vector", "weights that come from the base's", found, ANOTHER_BASE)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
