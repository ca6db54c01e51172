"""Effective coefficients: how much of each expert's task vector goes into each tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from merging.errors import InvalidInput
from merging.safefile import load_tensors, save_tensors
from merging.settings import Preprocess


@dataclass(frozen=True)
class Coefficients:
    """The numbers that, with base and experts, determine a merged model.

    Attributes:
        tasks: The experts, in column order.
        values: By canonical tensor name, fp32 [experts] or [experts, rows]; a tensor that is not
            here comes from the base.
        preprocess: What was done to the task vectors that they belong to.
    """

    tasks: tuple[str, ...]
    values: Mapping[str, Tensor]
    preprocess: Preprocess = "none"

    def __post_init__(self) -> None:
        """Refuses values without a column per expert."""
        for name, value in self.values.items():
            if value.ndim not in (1, 2) or value.shape[0] != len(self.tasks):
                raise InvalidInput(
                    where=f"coefficients of {name}",
                    expected=f"shape [{len(self.tasks)}] or [{len(self.tasks)}, rows]",
                    found=str(list(value.shape)),
                    remedy="Learn the coefficients again.",
                )

    @classmethod
    def constant(cls, tasks: Sequence[str], names: Sequence[str], value: float) -> Coefficients:
        """The same coefficient for every expert and tensor (task arithmetic)."""
        return cls(tuple(tasks), {name: torch.full((len(tasks),), value) for name in names})

    def column(self, task: str) -> dict[str, Tensor]:
        """One expert's coefficients by tensor name, fp32 [] or [rows]."""
        index = self.tasks.index(task)
        return {name: value[index] for name, value in self.values.items()}

    def select(self, tasks: Sequence[str]) -> Coefficients:
        """The columns of `tasks`, in that order."""
        indices = [self.tasks.index(task) for task in tasks]
        values = {n: v[indices] for n, v in self.values.items()}
        return Coefficients(tuple(tasks), values, self.preprocess)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of tasks, preprocessing, names, shapes and values."""
        total = hashlib.sha256(repr((self.tasks, self.preprocess)).encode())
        for name in sorted(self.values):
            value = self.values[name].contiguous()
            total.update(f"{name}{tuple(value.shape)}".encode())
            total.update(value.numpy().tobytes())
        return total.hexdigest()

    def save(self, path: Path) -> None:
        """Writes them as safetensors, tasks and preprocessing in the header."""
        metadata = {"tasks": list(self.tasks), "preprocess": self.preprocess}
        save_tensors(path, self.values, metadata)

    @classmethod
    def load(cls, path: Path) -> Coefficients:
        """Reads what `save` wrote.

        Raises:
            InvalidInput: The file is missing, truncated or something else.
        """
        values, metadata = load_tensors(path)
        preprocess = metadata.get("preprocess", "none")
        if "tasks" not in metadata or preprocess not in get_args(Preprocess):
            raise InvalidInput(
                where=str(path),
                expected="coefficients of a merge, with tasks and preprocessing in the header",
                found="another safetensors file",
                remedy="Take coefficients.safetensors of a merged model.",
            )
        return cls(tuple(metadata["tasks"]), values, preprocess)
