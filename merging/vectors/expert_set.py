"""A base and the experts that are merged into it: the one thing that every step of a merge is given.

    experts = ExpertSet.open(Path("base"), [open_expert(...), ...], ModelKind.TEXT_CLASSIFIER)

What is known of a set is worked out once, when it is first asked for: each checkpoint is opened once,
and the names of the tensors to merge are looked up once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import Expert
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.vectors.backbone import Backbone
from merging.vectors.deltas import Source, source_of, stacked_deltas
from merging.vectors.layout import Layout


@dataclass(frozen=True, eq=False)
class ExpertSet:
    """A base checkpoint, experts in the order of their columns, and the kind of model they all are."""

    base: Checkpoint
    experts: tuple[Expert, ...]
    kind: ModelKind

    def __post_init__(self) -> None:
        """Gives each expert the head that it has on this base."""
        on_base = tuple(expert.on(self.base, self.kind) for expert in self.experts)
        object.__setattr__(self, "experts", on_base)

    @classmethod
    def open(cls, base_dir: Path, experts: Sequence[Expert], kind: ModelKind) -> Self:
        """A set whose base lies in a folder.

        Raises:
            InvalidInput: The base is no readable checkpoint.
        """
        return cls(Checkpoint.open(base_dir), tuple(experts), kind)

    def only(self, tasks: Sequence[str]) -> Self:
        """A set of some of the experts, in the order given; what is open is shared with it."""
        experts = {expert.task: expert for expert in self.experts}
        return type(self)(self.base, tuple(experts[task] for task in tasks), self.kind)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The experts' tasks, in the order of their columns."""
        return tuple(expert.task for expert in self.experts)

    @property
    def heads(self) -> dict[str, Head]:
        """The experts' own heads, by task."""
        return {expert.task: expert.head for expert in self.experts}

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """What each expert's task model makes of the base's tensors, in the experts' order."""
        known: dict[str, Layout] = {}
        for expert in self.experts:
            if expert.head.architecture not in known:
                layout = Layout.of(self.base, expert.head, self.kind)
                known[expert.head.architecture] = layout
        return tuple(known[expert.head.architecture] for expert in self.experts)

    @property
    def buffers(self) -> frozenset[str]:
        """Tensors of the base that are buffers in a task model, and no parameters."""
        return frozenset[str]().union(*(layout.buffers for layout in self.layouts))

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The task vectors as the experts bring them, in the experts' order."""
        return tuple(source_of(self.base, expert.files, self.kind) for expert in self.experts)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Canonical names of the tensors to merge: trainable in every task model, changed by an expert.

        Buffers, integer tensors, frozen tensors and what only the base has (an unused pooler) are
        left to the base.
        """
        used = [set(layout.parameters) for layout in self.layouts]
        common = set.intersection(*used) if used else set()
        return tuple(
            name
            for name in self.base.tensors
            if name in common and any(_changes(source, name) for source in self.sources)
        )

    def stacks(self) -> Iterator[tuple[str, Tensor]]:
        """Name and task vectors of each tensor to merge, fp32 [experts, *shape]."""
        for name in self.names:
            yield name, stacked_deltas(self.base, self.sources, name)

    def backbone(self, task: str) -> Backbone:
        """The backbone of one expert as it was fine-tuned, an adapter added to the base."""
        index = self.tasks.index(task)
        return Backbone.of_expert(
            self.base, self.experts[index].files, self.sources[index], self.kind
        )


def _changes(source: Source, name: str) -> bool:
    delta = source.delta(name)
    return bool(torch.count_nonzero(delta)) if isinstance(delta, Tensor) else delta is not None
