"""What transformers makes of a backbone's tensors when it loads them into a task model.

It renames some, ties some together and joins others into one, so names in files and names in models
cannot be compared by rules of our own. The loader itself is asked: it gets stand-ins, which have the
tensors' shapes and take no memory, and the address of a stand-in tells where it went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.serving import assemble
from merging.vectors.deltas import backbone_names

SAMPLE = 16  # Numbers of a tensor that are read.


@dataclass(frozen=True)
class Layout:
    """Where a backbone's tensors are in a task model.

    Attributes:
        parameters: Names of the trainable parameters that a tensor became, by its canonical name; more
            than one where they are tied.
        whole: Tensors that are a parameter or a buffer as they are. Not among them are those that
            transformers joins with others, such as the experts of a mixture, and those that the
            task model does not use, such as a pooler.
        buffers: Those of `whole` that are no parameters, such as the statistics of a batch norm.
    """

    parameters: Mapping[str, Sequence[str]]
    whole: frozenset[str]
    buffers: frozenset[str]

    @classmethod
    def of(cls, backbone: Checkpoint, head: Head, kind: ModelKind) -> Self:
        """The layout of one backbone under one head.

        Raises:
            TaskError: A tensor that the task model needs is missing or has another shape.
        """
        names = backbone_names(backbone, kind)
        stand_ins = {name: _stand_in(backbone.read(name)) for name in names}
        model = assemble(head.config, kind, {**stand_ins, **head.tensors})
        by_address = {tensor.data_ptr(): name for name, tensor in stand_ins.items()}

        def name_of(value: Tensor) -> str | None:
            name = by_address.get(value.data_ptr())
            return name if name is not None and value.shape == stand_ins[name].shape else None

        parameters: dict[str, list[str]] = {}
        buffers = {name for _, buffer in model.named_buffers() if (name := name_of(buffer))}
        whole = set(buffers)
        for path, parameter in model.named_parameters(remove_duplicate=False):
            if (name := name_of(parameter)) is None:
                continue
            whole.add(name)
            if parameter.requires_grad:
                parameters.setdefault(name, []).append(path)
        return cls(parameters, frozenset(whole), frozenset(buffers))


def _stand_in(tensor: Tensor) -> Tensor:
    """One number in the shape of a tensor; fp32, as the model will have it, or it would be copied.

    The number comes from a few places of the tensor: the loader ties two that are equal, and leaves
    two apart that should be tied and are not.
    """
    flat = tensor.flatten()
    sample = flat[:: max(1, len(flat) // SAMPLE)]
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return sample.sum(dtype=dtype).expand(tensor.shape)
