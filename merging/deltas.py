"""Task vectors, τ = θ − θp, one tensor at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merging.checkpoint import Checkpoint
from merging.examples import ModelKind
from merging.experts import Expert
from merging.serving import assemble


def task_vector(base: Checkpoint, expert: Checkpoint, name: str) -> Tensor:
    """The difference of one tensor, fp32 in the tensor's shape."""
    return expert.read(name).float() - base.read(name).float()


def mergeable_names(base: Checkpoint, experts: Sequence[Expert], kind: ModelKind) -> list[str]:
    """Canonical names of the tensors that every task model uses as trainable parameters.

    Buffers, integer tensors and what only the base has (an unused pooler) are left to the base.
    """
    found = [set(parameter_names(base, expert, kind)) for expert in experts]
    common = set.intersection(*found) if found else set()
    return [name for name in base.tensors if name in common]


def parameter_names(base: Checkpoint, expert: Expert, kind: ModelKind) -> dict[str, list[str]]:
    """Parameters of the expert's task model that each tensor of the base is loaded into.

    transformers renames tensors while it loads them, so the way back is the memory they share.
    """
    tensors = {name: base.read(name).float() for name in backbone_names(base, kind)}
    model = assemble(expert.head.config, kind, {**tensors, **expert.head.tensors})
    by_address = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    used: dict[str, list[str]] = {}
    for parameter, value in model.named_parameters(remove_duplicate=False):
        name = by_address.get(value.data_ptr())
        if name is not None and value.shape == tensors[name].shape:
            used.setdefault(name, []).append(parameter)
    return used


def backbone_names(checkpoint: Checkpoint, kind: ModelKind) -> list[str]:
    """The tensors that are merged for a kind of model; generators have no head of their own."""
    if kind == "generator":
        return list(checkpoint.tensors)
    return [name for name in checkpoint.tensors if name not in checkpoint.head]
