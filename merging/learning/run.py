"""One learning run: the loop, what is saved of it, and which of its states was best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from merging.experts.heads import Head
from merging.learning.calibration import CalibrationSet, batch_indices
from merging.learning.merge import Merge
from merging.learning.state import RunState, StepRecord
from merging.learning.taskmodels import TaskModels
from merging.learning.weights import HeadWeights, TensorWeights
from merging.models.coefficients import Coefficients
from merging.settings import MergeSettings

logger = logging.getLogger(__name__)

Progress = Callable[[StepRecord], None]

SMALL = 0.01  # It is added to held-out losses, so that one of nearly zero does not decide by noise.


def held_out_losses(
    models: TaskModels,
    data: Mapping[str, tuple[CalibrationSet, CalibrationSet]],
    settings: MergeSettings,
) -> dict[str, Tensor]:
    """Losses of the task models, as they are, on their held-out examples, fp64 [examples]."""
    return {
        task: held_out.losses(models.models[task], settings)
        for task, (_, held_out) in data.items()
        if len(held_out)
    }


def is_better(
    losses: Mapping[str, Tensor], before: Mapping[str, Tensor], at_base: Mapping[str, float]
) -> bool:
    """Whether a state does better than another on the same held-out examples.

    The worst task decides if it changed by more than a standard error, else the mean over tasks.
    Losses count relative to the base's. Not to the start's: a warm start is nearly perfect on the old
    tasks, and measured by that no step towards a new one would ever be better.

    Args:
        losses: Of the one state by task, fp64 [examples].
        before: Of the other state, likewise.
        at_base: Mean loss of the unmerged base by task.
    """
    shares = {t: (loss + SMALL) / (at_base[t] + SMALL) for t, loss in losses.items()}
    changes = {t: shares[t] - (before[t] + SMALL) / (at_base[t] + SMALL) for t in shares}
    now = {t: float(share.mean()) for t, share in shares.items()}
    change = {t: float(difference.mean()) for t, difference in changes.items()}
    worst = max(now, key=lambda t: now[t])
    worst_before = max(now, key=lambda t: now[t] - change[t])
    rise = now[worst] - (now[worst_before] - change[worst_before])
    decisive = changes[worst if rise > 0 else worst_before]
    noise = float(decisive.std(correction=int(len(decisive) > 1))) / len(decisive) ** 0.5
    if abs(rise) > noise:
        return rise < 0
    return sum(change.values()) <= 0


class LearningRun:
    """Steps over all tasks of a group, one micro-batch of each at a time.

    Args:
        merge: The merged parameters and what is learned of them.
        columns: Names of the merged things (experts, or groups of experts), in column order.
        models: Task models of all tasks.
        data: By task what is learned from and what is held out.
        settings: How to learn.
        at_base: Mean held-out loss of the unmerged base, by task: what there is to gain.
    """

    def __init__(
        self,
        merge: Merge,
        columns: tuple[str, ...],
        models: TaskModels,
        data: Mapping[str, tuple[CalibrationSet, CalibrationSet]],
        settings: MergeSettings,
        at_base: Mapping[str, float],
    ) -> None:
        self.merge = merge
        self.columns = columns
        self.models = models
        self.data = data
        self.settings = settings
        self.at_base = at_base
        self.tasks = tuple(models.models)
        self.heads: dict[str, HeadWeights] = {}
        if settings.tune_heads:
            self.heads = {
                f"{task}/{name}": HeadWeights(
                    parameter, settings.head_learning_rate, settings.head_decay
                )
                for task, parameters in models.heads.items()
                for name, parameter in parameters.items()
            }
        self.history: list[StepRecord] = []
        self.best: dict[str, Tensor] = {}

    def go(self, path: Path, progress: Progress | None = None) -> None:
        """Runs all steps that are not in the state file `path` yet."""
        saved = RunState.load(path)
        if saved is None:
            self._look(StepRecord(0, {}), progress)
        else:
            self._restore(saved)
            logger.info("going on from step %d of %s", saved.step, path)
        settings = self.settings
        for step in range(self.merge.step + 1, settings.steps + 1):
            self._set_rows(step)
            record = StepRecord(step, self.learn_step(step))
            ends = (settings.tensor_steps, settings.steps)
            if step % settings.evaluate_every == 0 or step in ends:
                self._look(record, progress)
                self._save(path)
            else:
                self._record(record, progress)

    def learn_step(self, step: int) -> dict[str, float]:
        """One micro-batch per task, then one update of everything; gives the losses before it."""
        self.merge.step = step
        losses: list[Tensor] = []
        for task in self.tasks:
            self.merge.last_backward = task == self.tasks[-1]
            examples = self.data[task][0]
            indices = batch_indices(
                len(examples), self.settings.batch_size, step - 1, task, self.settings.seed
            )
            loss = examples.loss(self.models.models[task], indices, self.settings)
            losses.append(loss.detach())
            self.merge.watch.add(task, f"a finite loss in step {step}", losses[-1])
            (loss * self._share(task)).backward()
        values = self.merge.finish_step(losses)
        for head in self.heads.values():
            head.update(step)
        return dict(zip(self.tasks, values, strict=True))

    def _share(self, task: str) -> float:
        """What a task's loss is multiplied with before all are added."""
        share = 1 / len(self.tasks)
        if self.settings.balanced and task in self.at_base:
            return share / (self.at_base[task] + SMALL)
        return share

    def best_coefficients(self) -> Coefficients:
        """Coefficients of the best state, by column."""
        prefix = "coefficients/"
        values = {n.removeprefix(prefix): t for n, t in self.best.items() if n.startswith(prefix)}
        return Coefficients(self.columns, values)

    def best_heads(self, heads: Mapping[str, Head]) -> dict[str, Head]:
        """Heads of the best state; `heads` as they are where none was tuned."""
        if not self.heads:
            return dict(heads)
        return {
            task: replace(
                heads[task],
                tensors={
                    name: self.best[f"head/{task}/{name}"] for name in self.models.heads[task]
                },
            )
            for task in self.tasks
        }

    def _set_rows(self, step: int) -> None:
        """Rows learn numbers of their own only once their tensors have learned theirs."""
        for weights in self.merge.weights.values():
            weights.rows_learn = weights.own is not None and step > self.settings.tensor_steps

    def _look(self, record: StepRecord, progress: Progress | None) -> None:
        """Keeps the state if it does better on the held-out examples than the best one so far."""
        losses = held_out_losses(self.models, self.data, self.settings)
        means = {task: float(loss.mean()) for task, loss in losses.items()}
        self._record(StepRecord(record.step, record.losses, means), progress)
        before = {t: self.best[f"held-out/{t}"] for t in losses} if self.best else {}
        if not before or is_better(losses, before, self.at_base):
            self.best = self._snapshot(losses)

    def _record(self, record: StepRecord, progress: Progress | None) -> None:
        self.history.append(record)
        if progress is not None:
            progress(record)

    def _snapshot(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = self.merge.coefficients(self.columns).values
        state = {f"coefficients/{name}": value.clone() for name, value in values.items()}
        state |= {f"held-out/{task}": loss for task, loss in losses.items()}
        for name, head in self.heads.items():
            state[f"head/{name}"] = head.parameter.detach().cpu().clone()
        return state

    def _learned(self) -> dict[str, TensorWeights | HeadWeights]:
        learned: dict[str, TensorWeights | HeadWeights] = {}
        learned.update({f"weights/{name}": w for name, w in self.merge.weights.items()})
        learned.update({f"heads/{name}": h for name, h in self.heads.items()})
        return learned

    def _save(self, path: Path) -> None:
        tensors = {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, learned in self._learned().items():
            tensors |= {f"{name}:{part}": tensor for part, tensor in learned.state().items()}
        RunState(self.merge.step, tensors, tuple(self.history)).save(path)

    def _restore(self, saved: RunState) -> None:
        self.merge.step = saved.step
        self.history = list(saved.history)
        self.best = {
            n.removeprefix("best/"): t for n, t in saved.tensors.items() if n.startswith("best/")
        }
        for name, learned in self._learned().items():
            learned.load({part: saved.tensors[f"{name}:{part}"] for part in learned.state()})
        self._set_rows(saved.step)
        self.merge.rebuild()
