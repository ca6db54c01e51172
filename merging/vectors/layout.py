"""What transformers makes of a backbone's tensors when it loads them into a task model.

It renames some, ties some together and joins others into one, so names in files and names in models
cannot be compared by rules of our own. The loader itself is asked: it gets stand-ins that have each
tensor's shape and take no memory, and the address of a stand-in tells where it went. No weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint, TensorInfo
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.serving import assemble
from merging.vectors.deltas import backbone_names


@dataclass(frozen=True)
class Layout:
    """Where a backbone's tensors are in a task model.

    Attributes:
        parameters: Names of the trainable parameters that a tensor became, by its canonical name; more
            than one where they are tied.
        whole: Tensors that are a parameter or a buffer as they are. Not among them are those that
            transformers joins with others, such as the experts of a mixture, and those that the
            task model does not use, such as a pooler.
    """

    parameters: Mapping[str, Sequence[str]]
    whole: frozenset[str]

    @classmethod
    def of(cls, backbone: Checkpoint, head: Head, kind: ModelKind) -> Self:
        """The layout of one backbone under one head.

        Raises:
            TaskError: A tensor that the task model needs is missing or has another shape.
        """
        stand_ins = {n: _stand_in(backbone.tensors[n]) for n in backbone_names(backbone, kind)}
        model = assemble(head.config, kind, {**stand_ins, **head.tensors})
        names = {tensor.data_ptr(): name for name, tensor in stand_ins.items()}

        def name_of(value: Tensor) -> str | None:
            name = names.get(value.data_ptr())
            return name if name is not None and value.shape == stand_ins[name].shape else None

        parameters: dict[str, list[str]] = {}
        whole = {name for _, buffer in model.named_buffers() if (name := name_of(buffer))}
        for path, parameter in model.named_parameters(remove_duplicate=False):
            if (name := name_of(parameter)) is None:
                continue
            whole.add(name)
            if parameter.requires_grad:
                parameters.setdefault(name, []).append(path)
        return cls(parameters, frozenset(whole))


def _stand_in(info: TensorInfo) -> Tensor:
    """One number, seen as a tensor; fp32 where the model will have it so, or it would be copied."""
    dtype = torch.float32 if info.dtype.is_floating_point else info.dtype
    return torch.zeros((), dtype=dtype).expand(info.shape)
