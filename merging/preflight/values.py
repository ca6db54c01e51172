"""Whether the values of an expert's tensors are those of a fine-tuned base."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.preflight.mismatch import Mismatch
from merging.vectors.deltas import Source, dense_delta
from merging.vectors.layout import Layout

# A task vector longer than so many times its base, ‖τ‖ / ‖θp‖ over all tensors, is no fine-tuning.
LARGEST_CHANGE = 10.0


def check_values(
    base: Checkpoint, source: Source, head: Head, layout: Layout, kind: ModelKind
) -> Iterator[Mismatch]:
    """Values that are not finite, changes that are lost, and a task vector of zero or out of all bounds."""
    for name, tensor in head.tensors.items():
        if not _finite(tensor):
            yield Mismatch(name, "finite values", "NaN or infinity")
    change, size, whole = 0.0, 0.0, True
    for name in backbone_names(base, kind):
        if not base.tensors[name].dtype.is_floating_point:
            continue
        delta = dense_delta(source.delta(name), base, name)
        size += float(base.read(name).float().square().sum(dtype=torch.float64))
        if delta is None:
            continue
        if not _finite(delta):
            whole = False
            yield Mismatch(name, "finite values", "NaN or infinity")
        if name not in layout.whole and bool(torch.count_nonzero(delta)):
            change_lost = "changed, and made into another parameter when transformers loads it"
            yield Mismatch(name, "the base's values, or a parameter of the model", change_lost)
        change += float(delta.square().sum(dtype=torch.float64))
    if whole and change == 0:
        yield Mismatch("task vector", "a difference from the base", "zero: nothing was learned")
    elif whole and change > LARGEST_CHANGE**2 * size:
        ratio = f"{(change / size) ** 0.5:.1f} times the base" if size else "a base of zeros"
        yield Mismatch("task vector", f"at most {LARGEST_CHANGE:g} times the base", ratio)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
