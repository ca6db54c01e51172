"""What transformers makes of a backbone's tensors when it loads them into a task model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from merging.experts.checkpoint import Checkpoint
from merging.experts.heads import Head
from merging.experts.stand_ins import StandIns
from merging.kinds import ModelKind
from merging.serving import assemble


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
        stand_ins = StandIns.of(backbone, kind)
        model = assemble(head.config, kind, {**stand_ins.tensors, **head.tensors})
        parameters: dict[str, list[str]] = {}
        buffers = {n for _, buffer in model.named_buffers() if (n := stand_ins.name_of(buffer))}
        whole = set(buffers)
        for path, parameter in model.named_parameters(remove_duplicate=False):
            if (name := stand_ins.name_of(parameter)) is None:
                continue
            whole.add(name)
            if parameter.requires_grad:
                parameters.setdefault(name, []).append(path)
        return cls(parameters, frozenset(whole), frozenset(buffers))
