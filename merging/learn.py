"""Learning the coefficients of a merge.

learned = learn_coefficients(base, experts, "text-classifier", MergeSettings(),
                             work=Path("work"), device=torch.device("cpu"))
materialise(base, experts, "text-classifier", learned.coefficients, learned.heads, Path("out"))
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from merging.calibration import CalibrationSet, batch_indices, calibration_sets
from merging.checkpoint import Checkpoint, digest_directory
from merging.coefficients import Coefficients
from merging.deltas import mergeable_names
from merging.errors import InvalidInput, NonFinite
from merging.examples import ModelKind
from merging.experts import Expert
from merging.heads import Head
from merging.plan import Plan
from merging.settings import MergeSettings
from merging.state import RunState, StepRecord
from merging.stream import StreamedMerge
from merging.taskmodels import TaskModels
from merging.vectors import TaskVectors, build_vectors
from merging.weights import TensorWeights

logger = logging.getLogger(__name__)

Progress = Callable[[StepRecord], None]


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
        frozen: Tasks whose columns stay exactly as in `start`.
        heads: Heads to start from in place of the experts' own.
        work: Scratch folder for task vectors, soft labels and the state of the run.
        device: Where the model runs.
        progress: Called after every step.

    Raises:
        InvalidInput: No experts, a name twice, or a frozen task without a column.
        NonFinite: Loss or gradient became NaN or infinite.
    """
    tasks = tuple(expert.task for expert in experts)
    _check(tasks, start, frozen)
    own_heads = {e.task: (heads or {}).get(e.task, e.head) for e in experts}
    checkpoint = Checkpoint.open(base)
    names = mergeable_names(checkpoint, experts, kind)
    set_key = _key(digest_directory(base), *(e.digest for e in experts), *names)
    vectors_path = work / "vectors" / f"{set_key}.safetensors"
    build_vectors(vectors_path, checkpoint, [e.directory for e in experts], names)
    data = {e.task: calibration_sets(base, e, kind, settings, work) for e in experts}
    models = TaskModels(
        checkpoint,
        list(own_heads.values()),
        kind,
        names,
        device,
        tune_heads=settings.tune_heads,
    )
    vectors = TaskVectors(vectors_path)
    weights = starting_weights(checkpoint, names, tasks, settings, start, frozen)
    run = _Run(
        StreamedMerge(models.merged, vectors, weights), models, data, tasks, own_heads, settings
    )
    run_key = _key(
        set_key,
        settings.digest,
        start.digest if start else "",
        *sorted(frozen),
        *(head.digest for head in own_heads.values()),
    )
    run.go(work / "runs" / f"{run_key}.safetensors", progress)
    size = sum(p.numel() * 4 for p in models.merged.values())
    largest = max((p.numel() * 4 for p in models.merged.values()), default=0)
    plan = Plan(((tasks,),), size, size * (len(tasks) + 1), 2 * size + largest * (len(tasks) + 1))
    return Learned(run.best_coefficients(), run.best_heads(), tuple(run.history), plan)


def starting_weights(
    base: Checkpoint,
    names: Sequence[str],
    tasks: tuple[str, ...],
    settings: MergeSettings,
    start: Coefficients | None,
    frozen: Collection[str],
) -> dict[str, TensorWeights]:
    """What is learned, by tensor, at its starting values."""
    fixed = torch.tensor([task in frozen for task in tasks])
    weights: dict[str, TensorWeights] = {}
    for name in names:
        values = torch.full((len(tasks),), settings.initial)
        shape = base.tensors[name].shape
        if settings.granularity == "row" and len(shape) > 1:
            values = values[:, None].repeat(1, shape[0])
        if start is not None and name in start.values:
            for task in set(tasks) & set(start.tasks):
                values[tasks.index(task)] = start.values[name][start.tasks.index(task)]
        weights[name] = TensorWeights(
            values, fixed, tanh=settings.tanh, learning_rate=settings.learning_rate
        )
    if settings.granularity == "model" and names:
        return dict.fromkeys(names, weights[names[0]])
    return weights


class _Run:
    """The loop: its state, how it is saved, and which state was best."""

    def __init__(
        self,
        merge: StreamedMerge,
        models: TaskModels,
        data: Mapping[str, tuple[CalibrationSet, CalibrationSet]],
        tasks: tuple[str, ...],
        heads: Mapping[str, Head],
        settings: MergeSettings,
    ) -> None:
        self.merge = merge
        self.models = models
        self.data = data
        self.tasks = tasks
        self.heads = heads
        self.settings = settings
        self.history: list[StepRecord] = []
        self.best_score: tuple[float, float] | None = None
        self.best = self._snapshot()

    def go(self, path: Path, progress: Progress | None) -> None:
        """Runs all steps that are not in the state file yet."""
        saved = RunState.load(path)
        if saved is None:
            self._look(StepRecord(0, {}), progress)
        else:
            self._restore(saved)
            logger.info("going on from step %d of %s", saved.step, path)
        for step in range(self.merge.step + 1, self.settings.steps + 1):
            record = StepRecord(step, self._learn_step(step))
            looking = step % self.settings.evaluate_every == 0 or step == self.settings.steps
            if looking:
                self._look(record, progress)
                self._save(path)
            else:
                self._record(record, progress)

    def best_coefficients(self) -> Coefficients:
        """Coefficients of the best state."""
        values = {n[13:]: t for n, t in self.best.items() if n.startswith("coefficients/")}
        return Coefficients(self.tasks, values)

    def best_heads(self) -> dict[str, Head]:
        """Heads of the best state."""
        found: dict[str, Head] = {}
        for task, head in self.heads.items():
            prefix = f"head/{task}/"
            tensors = {n[len(prefix) :]: t for n, t in self.best.items() if n.startswith(prefix)}
            found[task] = Head(task, head.config, tensors or head.tensors)
        return found

    def _learn_step(self, step: int) -> dict[str, float]:
        self.merge.step = step
        losses: dict[str, float] = {}
        for task in self.tasks:
            self.merge.last_backward = task == self.tasks[-1]
            examples = self.data[task][0]
            indices = batch_indices(
                len(examples), self.settings.batch_size, step - 1, task, self.settings.seed
            )
            loss = examples.loss(self.models.models[task], indices, self.settings)
            losses[task] = float(loss.detach())
            if not math.isfinite(losses[task]):
                raise NonFinite(
                    f"{task}: expected a finite loss in step {step}, found {losses[task]}. Nothing "
                    "was updated with it; lower learning_rate or look at the examples."
                )
            (loss / len(self.tasks)).backward()
        self.merge.finish_step()
        self.merge.last_backward = False
        return losses

    def _look(self, record: StepRecord, progress: Progress | None) -> None:
        """Keeps the state if it does better on the held-out examples: worst task, then mean."""
        losses = {
            task: self.data[task][1].mean_loss(self.models.models[task], self.settings)
            for task in self.tasks
            if len(self.data[task][1])
        }
        self._record(StepRecord(record.step, record.losses, losses), progress)
        score = self._score(losses)
        if self.best_score is None or score <= self.best_score:
            self.best_score = score
            self.best = self._snapshot()

    def _score(self, losses: Mapping[str, float]) -> tuple[float, float]:
        """Held-out loss relative to the start: worst task to two digits, then the mean."""
        before = self.history[0].held_out
        if not losses or not before:
            return (0.0, 0.0)
        ratios = [(losses[task] + 0.01) / (before[task] + 0.01) for task in losses]
        return (round(max(ratios), 2), sum(ratios) / len(ratios))

    def _record(self, record: StepRecord, progress: Progress | None) -> None:
        self.history.append(record)
        if progress is not None:
            progress(record)

    def _snapshot(self) -> dict[str, torch.Tensor]:
        found = {
            f"coefficients/{name}": value.clone()
            for name, value in self.merge.coefficients(self.tasks).values.items()
        }
        for task, parameters in self.models.heads.items():
            for name, parameter in parameters.items():
                found[f"head/{task}/{name}"] = parameter.detach().cpu().clone()
        return found

    def _save(self, path: Path) -> None:
        tensors = {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, weights in self.merge.weights.items():
            for part, tensor in weights.state().items():
                tensors[f"weights/{part}/{name}"] = tensor
        RunState(self.merge.step, tensors, self.best_score, tuple(self.history)).save(path)

    def _restore(self, saved: RunState) -> None:
        self.merge.step = saved.step
        self.best_score = saved.best
        self.history = list(saved.history)
        self.best = {n[5:]: t for n, t in saved.tensors.items() if n.startswith("best/")}
        for name, weights in self.merge.weights.items():
            weights.load(
                {part: saved.tensors[f"weights/{part}/{name}"] for part in weights.state()}
            )
        self.merge.rebuild()


def _check(tasks: tuple[str, ...], start: Coefficients | None, frozen: Collection[str]) -> None:
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
