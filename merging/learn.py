"""Learning the coefficients of a merge.

learned = learn_coefficients(base, experts, "text-classifier", MergeSettings(),
                             work=Path("work"), device=torch.device("cpu"))
materialise(base, experts, "text-classifier", learned.coefficients, learned.heads, Path("out"))
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from merging.calibration import CalibrationSet, calibration_sets
from merging.checkpoint import Checkpoint, digest_directory
from merging.coefficients import Coefficients
from merging.deltas import CombinedSource, Source, mergeable_names
from merging.errors import InvalidInput
from merging.examples import ModelKind
from merging.experts import Expert
from merging.feed import feed_for
from merging.grouping import chunks, cosines, similarity_order
from merging.heads import Head
from merging.plan import Memory, Plan, make_plan
from merging.preprocess import open_sources
from merging.run import LearningRun, Progress, held_out_losses
from merging.settings import MergeSettings
from merging.state import StepRecord
from merging.stream import StreamedMerge
from merging.taskmodels import TaskModels
from merging.vectors import TaskVectors, build_vectors
from merging.weights import TensorWeights

# A merge of merges starts here: below 1, where tanh still moves, and near what the groups learned.
UPPER_START = 0.7


@dataclass(frozen=True)
class Learned:
    """The result of learning: the state that did best on the held-out examples."""

    coefficients: Coefficients
    heads: Mapping[str, Head]
    history: tuple[StepRecord, ...]
    plan: Plan


def learn_coefficients(
    base: Path,
    experts: Sequence[Expert],
    kind: ModelKind,
    settings: MergeSettings,
    *,
    start: Coefficients | None = None,
    frozen: Collection[str] = (),
    heads: Mapping[str, Head] | None = None,
    work: Path,
    device: torch.device,
    progress: Progress | None = None,
) -> Learned:
    """Learns how much of each expert goes into each tensor.

    A run that was killed goes on from its last saved step when it is called again with the same
    arguments, and gives bitwise the same result as one that was not.

    Args:
        base: The base checkpoint.
        experts: Experts in column order; each has passed `check_expert`.
        kind: The kind of model.
        settings: How to learn.
        start: Coefficients to start from, by task name; experts without a column start from
            `settings.initial`.
        frozen: Tasks whose columns stay exactly as in `start`; they are merged as one vector.
        heads: Heads to start from in place of the experts' own.
        work: Scratch folder for task vectors, soft labels and the state of the run.
        device: Where the model runs.
        progress: Called after every step.

    Raises:
        InvalidInput: No experts, a name twice, or a frozen task without a column.
        NotEnoughMemory: The memory budget is too small.
        NonFinite: Loss or gradient became NaN or infinite.
    """
    tasks = tuple(expert.task for expert in experts)
    _check(tasks, start, frozen, settings)
    memory = Memory.of(device)
    make_plan(base, experts, kind, settings, memory)  # refuses what does not fit, before all work
    merge = _Merge(base, experts, kind, settings, start, work, device, progress)
    heads = {e.task: (heads or {}).get(e.task, e.head) for e in experts}
    units = [merge.expert_unit(expert) for expert in experts if expert.task not in frozen]
    champion = [merge.champion_unit(frozen)] if frozen else []
    if settings.group_by == "similarity" and settings.group_size:
        cosine = cosines(merge.base, [unit.source for unit in units], merge.names)
        units = [units[i] for i in similarity_order(cosine)]
    levels: list[tuple[tuple[str, ...], ...]] = []
    while len(units) + len(champion) > 1 or not levels:
        groups = [[units[i] for i in g] for g in chunks(len(units), settings.group_size)]
        if len(groups) == 1:  # the deployed model joins the last merge, so that it stays as it is
            groups[0] = champion + groups[0]
            champion = []
        levels.append(tuple(tuple(t for u in g for t in u.tasks) for g in groups))
        units = []
        for group in groups:
            if len(group) > 1 or len(groups) == 1:  # else there is nothing to weigh yet
                unit, heads = merge.learn(group, heads)
                group = [unit]
            units += group
    unit = units[0]
    coefficients = Coefficients(unit.tasks, unit.values, settings.preprocess).select(tasks)
    plan = make_plan(base, experts, kind, settings, memory, groups=tuple(levels))
    return Learned(coefficients, heads, tuple(merge.history), plan)


@dataclass(frozen=True)
class _Unit:
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


class _Merge:
    """What all groups of one call share."""

    def __init__(
        self,
        base: Path,
        experts: Sequence[Expert],
        kind: ModelKind,
        settings: MergeSettings,
        start: Coefficients | None,
        work: Path,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.base_directory = base
        self.base = Checkpoint.open(base)
        self.base_digest = digest_directory(base)
        self.experts = {expert.task: expert for expert in experts}
        self.kind: ModelKind = kind
        self.settings = settings
        self.start = start
        self.work = work
        self.device = device
        self.progress = progress
        self.names = mergeable_names(base, experts, kind)
        sources = open_sources(self.base, experts, kind, settings.preprocess)
        self.sources = dict(zip(self.experts, sources, strict=True))
        self.history: list[StepRecord] = []
        self._data: dict[str, tuple[CalibrationSet, CalibrationSet]] = {}

    def expert_unit(self, expert: Expert) -> _Unit:
        """One expert."""
        values = {name: torch.ones(1) for name in self.names}
        digest = expert.digest
        if self.settings.preprocess != "none":  # then its vector depends on the others too
            others = [other.digest for other in self.experts.values()]
            digest = _key(digest, self.settings.preprocess, *others)
        return _Unit((expert.task,), self.sources[expert.task], values, digest)

    def champion_unit(self, frozen: Collection[str]) -> _Unit:
        """All frozen tasks as one vector, each with its coefficient in `start`."""
        assert self.start is not None
        tasks = tuple(task for task in self.experts if task in frozen)
        columns = self.start.select(tasks)
        values = {n: columns.values.get(n, torch.zeros(len(tasks))) for n in self.names}
        return replace(
            self._combined([self.expert_unit(self.experts[t]) for t in tasks], values), fixed=True
        )

    def learn(
        self, group: Sequence[_Unit], heads: Mapping[str, Head]
    ) -> tuple[_Unit, dict[str, Head]]:
        """Merges a group of units into one."""
        tasks = [task for unit in group for task in unit.tasks]
        data = {task: self._calibration(task) for task in tasks}
        models = TaskModels(
            self.base,
            [heads[task] for task in tasks],
            self.kind,
            self.names,
            self.device,
            tune_heads=self.settings.tune_heads,
        )
        losses = held_out_losses(models, data, self.settings)  # nothing is merged into them yet
        at_base = {task: float(loss.mean()) for task, loss in losses.items()}
        vectors = self._vectors(group, models.lookups)
        weights = self._weights(group, models.row_names)
        merge = StreamedMerge(
            models.merged, vectors, weights, models.lookups, feed_for(vectors, self.device)
        )
        columns = tuple("+".join(unit.tasks) for unit in group)
        run = LearningRun(merge, columns, models, data, self.settings, at_base)
        run_key = _key(
            *(unit.digest for unit in group),
            self.base_digest,
            self.settings.digest,
            self.start.digest if self.start else "",
            *(str(unit.fixed) for unit in group),
            *(heads[task].digest for task in tasks),
        )
        run.go(self.work / "runs" / f"{run_key}.safetensors", self.progress)
        self.history += run.history
        learned = {**heads, **run.best_heads({task: heads[task] for task in tasks})}
        return self._combined(group, run.best_coefficients().values), learned

    def _vectors(self, group: Sequence[_Unit], lookups: Collection[str]) -> TaskVectors:
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

    def _calibration(self, task: str) -> tuple[CalibrationSet, CalibrationSet]:
        if task not in self._data:
            self._data[task] = calibration_sets(
                self.base_directory, self.experts[task], self.kind, self.settings, self.work
            )
        return self._data[task]

    def _weights(
        self, group: Sequence[_Unit], row_names: Collection[str]
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
                starts[name],
                tanh=settings.tanh,
                learning_rate=settings.learning_rate,
                rows=self.base.tensors[name].shape[0] if by_row and name in row_names else 0,
                row_learning_rate=settings.row_learning_rate if by_row else 0.0,
                row_decay=settings.row_decay if by_row else 0.0,
                fixed=fixed,
            )
            for name in self.names
        }
        if settings.granularity == "model" and weights:
            return dict.fromkeys(weights, weights[self.names[0]])
        return weights

    def _start(self, name: str, group: Sequence[_Unit]) -> Tensor:
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
                columns.append(torch.tensor(self.settings.initial))
        return torch.stack(torch.broadcast_tensors(*columns)).clone()

    def _combined(self, group: Sequence[_Unit], outer: Mapping[str, Tensor]) -> _Unit:
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
        return _Unit(tasks, CombinedSource(self.base, members, values), values, digest)


def _check(
    tasks: tuple[str, ...],
    start: Coefficients | None,
    frozen: Collection[str],
    settings: MergeSettings,
) -> None:
    if (
        start
        and frozen
        and (settings.preprocess != start.preprocess or settings.preprocess == "tsv-m")
    ):
        raise InvalidInput(
            where="settings of a chain",
            expected="the deployed model's task vectors as they were when it was learned",
            found=f"preprocess {settings.preprocess!r} now and {start.preprocess!r} then, and what "
            "'tsv-m' makes of a vector changes with every new expert",
            remedy="Learn all columns again (the rung 'relearn'), or set preprocess to 'none'.",
        )
    known = set(start.tasks) if start else set()
    if not tasks or len(set(tasks)) < len(tasks) or not set(frozen) <= known:
        raise InvalidInput(
            where="experts of a merge",
            expected="at least one, each task once, and a column in `start` for every frozen one",
            found=f"tasks {list(tasks)}, frozen {sorted(frozen)}, start {sorted(known)}",
            remedy="Correct the list of experts.",
        )


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
