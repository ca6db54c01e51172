"""Merging groups of experts, and merges of them, one group at a time."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.experts.checkpoint import digest_directory
from merging.experts.expert import Expert
from merging.experts.heads import Head
from merging.learning.calibration import CalibrationSet, calibration_sets
from merging.learning.resident import open_merge
from merging.learning.run import LearningRun, Progress, held_out_losses
from merging.learning.state import StepRecord, numerics
from merging.learning.taskmodels import TaskModels
from merging.learning.weights import TensorWeights
from merging.models.coefficients import Coefficients
from merging.settings import MergeSettings
from merging.vectors.deltas import CombinedSource, Source
from merging.vectors.expert_set import ExpertSet
from merging.vectors.mapped import TaskVectors, build_vectors
from merging.vectors.preprocess import processed_sources

# A merge of merges starts here: below 1, where tanh still moves, and near what the groups learned.
UPPER_START = 0.7


@dataclass(frozen=True)
class Unit:
    """An expert, or a finished merge of several: a task vector made of task vectors.

    Attributes:
        values: Effective coefficients of its tasks, fp32 [tasks] or [tasks, rows] by tensor.
        fixed: Whether it must keep the coefficient 1.
    """

    tasks: tuple[str, ...]
    source: Source
    values: Mapping[str, Tensor]
    digest: str
    fixed: bool = False


class GroupMerge:
    """Merges one group after the other; keeps what all groups of one call share.

    The arguments are those of `learn_coefficients`, and `room`: bytes that the plan leaves for task
    vectors in an accelerator's memory.

    Attributes:
        names: Canonical names of the tensors to merge.
        numerics: What the last digits depend on beside the arguments; a run that was killed goes on
            only where it is the same.
        history: Records of all learning steps so far.
    """

    def __init__(
        self,
        experts: ExpertSet,
        settings: MergeSettings,
        start: Coefficients | None,
        work: Path,
        device: torch.device,
        room: int,
        progress: Progress | None,
    ) -> None:
        self.expert_set = experts
        self.base = experts.base
        self.base_digest = digest_directory(self.base.directory)
        self.experts = {expert.task: expert for expert in experts.experts}
        self.settings = settings
        self.start = start
        self.work = work
        self.device = device
        self.numerics = numerics(device)
        self.room = room
        self.progress = progress
        self.names = experts.names
        sources = processed_sources(experts, settings.preprocess)
        self.sources = dict(zip(self.experts, sources, strict=True))
        self.history: list[StepRecord] = []
        self._data: dict[str, tuple[CalibrationSet, CalibrationSet]] = {}

    def expert_unit(self, expert: Expert) -> Unit:
        """One expert."""
        values = {name: torch.ones(1) for name in self.names}
        digest = expert.fingerprint
        if self.settings.preprocess != "none":  # Then its vector depends on the others too.
            others = [other.fingerprint for other in self.experts.values()]
            digest = _key(digest, self.settings.preprocess, *others, self.numerics)
        return Unit((expert.task,), self.sources[expert.task], values, digest)

    def champion_unit(self, frozen: Collection[str]) -> Unit:
        """All frozen tasks as one vector, each with its coefficient in `start`."""
        assert self.start is not None
        tasks = tuple(task for task in self.experts if task in frozen)
        columns = self.start.select(tasks)
        values = {n: columns.values.get(n, torch.zeros(len(tasks))) for n in self.names}
        return replace(
            self._combined([self.expert_unit(self.experts[t]) for t in tasks], values), fixed=True
        )

    def learn(
        self, group: Sequence[Unit], heads: Mapping[str, Head]
    ) -> tuple[Unit, dict[str, Head]]:
        """Learns the coefficients of a group's units and makes one unit of them.

        Returns:
            The unit, and all heads, those of the group's tasks perhaps tuned.
        """
        gc.collect()  # hooks hold the group before in cycles, and with it an accelerator's memory
        tasks = [task for unit in group for task in unit.tasks]
        models = TaskModels(
            self.base,
            [heads[task] for task in tasks],
            self.expert_set.kind,
            self.names,
            self.device,
            tune_heads=self.settings.tune_heads,
        )
        data = {task: self._calibration(task, models.models[task]) for task in tasks}
        losses = held_out_losses(models, data, self.settings)  # nothing is merged into them yet
        with torch.no_grad():  # Where nothing is held out, this shows what each model reads.
            for task, (learned_from, _) in data.items():
                learned_from.loss(models.models[task], [0], self.settings)
        at_base = {task: float(loss.mean()) for task, loss in losses.items()}
        vectors = self._vectors(group, models.lookups)
        weights = self._weights(group, models.row_names)
        merge = open_merge(models, vectors, weights, self.device, self.room)
        columns = tuple("+".join(unit.tasks) for unit in group)
        run = LearningRun(merge, columns, models, data, self.settings, at_base)
        run_key = _key(
            *(unit.digest for unit in group),
            self.base_digest,
            self.settings.digest,
            self.start.digest if self.start else "",
            *(str(unit.fixed) for unit in group),
            *(heads[task].digest for task in tasks),
            self.numerics,
        )
        run.go(self.work / "runs" / f"{run_key}.safetensors", self.progress)
        self.history += run.history
        learned = {**heads, **run.best_heads({task: heads[task] for task in tasks})}
        return self._combined(group, run.best_coefficients().values), learned

    def _vectors(self, group: Sequence[Unit], lookups: Collection[str]) -> TaskVectors:
        key = _key(
            self.base_digest,
            self.settings.storage,
            *(unit.digest for unit in group),
            *self.names,
            *("", *sorted(lookups)),
        )
        path = self.work / "vectors" / f"{key}.safetensors"
        sources = [unit.source for unit in group]
        build_vectors(path, self.base, sources, self.names, self.settings.storage, lookups)
        return TaskVectors(path, resident=self.settings.resident)

    def _calibration(self, task: str, model: Any) -> tuple[CalibrationSet, CalibrationSet]:
        if task not in self._data:
            self._data[task] = calibration_sets(
                self.expert_set, self.experts[task], model, self.settings, self.work
            )
        return self._data[task]

    def _weights(
        self, group: Sequence[Unit], row_names: Collection[str]
    ) -> dict[str, TensorWeights]:
        settings = self.settings
        fixed = next((i for i, unit in enumerate(group) if unit.fixed), None)
        starts = {name: self._start(name, group) for name in self.names}
        if settings.granularity == "model" and starts:
            means = [s if s.ndim == 1 else s.mean(1) for s in starts.values()]
            starts = dict.fromkeys(starts, torch.stack(means).mean(0))
        by_row = settings.granularity == "row"
        weights = {
            name: TensorWeights(
                starts[name].to(self.device),
                tanh=settings.tanh,
                learning_rate=settings.learning_rate,
                rows=self.base.tensors[name].shape[0] if by_row and name in row_names else 0,
                row_learning_rate=settings.row_learning_rate,
                row_decay=settings.row_decay,
                fixed=fixed,
            )
            for name in self.names
        }
        if settings.granularity == "model" and weights:
            return dict.fromkeys(weights, weights[self.names[0]])
        return weights

    def _start(self, name: str, group: Sequence[Unit]) -> Tensor:
        """Starting coefficients of one tensor, [units] or [units, rows]."""
        columns = []
        for unit in group:
            if unit.fixed:
                columns.append(torch.tensor(1.0))
            elif len(unit.tasks) > 1:
                columns.append(torch.tensor(UPPER_START))
            elif self.start and unit.tasks[0] in self.start.tasks and name in self.start.values:
                columns.append(self.start.column(unit.tasks[0])[name])
            else:
                alone = len(self.experts) == 1  # and then 1 makes it what it is
                columns.append(torch.tensor(1.0 if alone else self.settings.initial))
        return torch.stack(torch.broadcast_tensors(*columns)).clone()

    def _combined(self, group: Sequence[Unit], outer: Mapping[str, Tensor]) -> Unit:
        """The unit that `outer` coefficients make of a group; effective ones are products."""
        tasks = tuple(task for unit in group for task in unit.tasks)
        values = {}
        for name in self.names:
            columns = [
                inner * outer[name][i]
                for i, unit in enumerate(group)
                for inner in unit.values[name]
            ]
            values[name] = torch.stack(torch.broadcast_tensors(*columns)).clone()
        members = [self.sources[task] for task in tasks]
        digest = _key(*(unit.digest for unit in group), Coefficients(tasks, values).digest)
        return Unit(tasks, CombinedSource(self.base, members, values), values, digest)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
