"""Builds merged models of a bench, measures them on the gate examples and remembers the figures.

Every measurement is one small file named by the digest of all that it depends on, so a benchmark
that was interrupted goes on where it stopped, and a table can be printed again at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.experts import Bench
from merging.baselines.baseline import UNSCALED, baseline, choose_scale, write_baseline
from merging.experts.heads import Head
from merging.learning.learn import Learned, learn_coefficients
from merging.models.coefficients import Coefficients
from merging.models.evaluate import evaluate
from merging.models.folder import MergedFolder
from merging.models.materialise import materialise
from merging.settings import MergeSettings
from merging.vectors.backbone import Backbone

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Result:
    """One model on the gate examples.

    Attributes:
        accuracy: By task.
        seconds: Of the processor, that making it took.
        note: What was chosen on the way, such as λ.
    """

    accuracy: Mapping[str, float]
    seconds: float = 0.0
    note: str = ""


class Laboratory:
    """One bench with its gate examples, floors and ceilings.

    Args:
        bench: Base and experts.
        cache: Where results and scratch files are kept.
        quick: Look at 500 gate examples of each task instead of all.
    """

    def __init__(self, bench: Bench, cache: Path, quick: bool = False) -> None:
        self.bench = bench
        self.quick = quick
        self.experts = {expert.task: expert for expert in bench.experts.experts}
        self.gate = {
            task: e.split.gate.take(range(min(500, len(e.split.gate)))) if quick else e.split.gate
            for task, e in self.experts.items()
        }
        self._results = cache / "quality"
        self.work = cache / "quality-work"
        self._results.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.floor = self.remember("floor", self._floor).accuracy
        self.ceiling = self.remember("experts", self._ceiling).accuracy

    def gap(self, result: Result, task: str) -> float:
        """Recovered gap: (merged − floor) / (expert − floor)."""
        floor = self.floor[task]
        return (result.accuracy[task] - floor) / (self.ceiling[task] - floor)

    def mean_gap(self, result: Result) -> float:
        """Mean recovered gap of the tasks that the model was measured on."""
        return sum(self.gap(result, task) for task in result.accuracy) / len(result.accuracy)

    def training_free(self, method: str) -> Result:
        """A training-free baseline, its λ chosen on labelled calibration examples."""

        def make() -> Result:
            started = time.process_time()
            experts = self.bench.experts
            delta = baseline(experts, method)
            scale = 1.0
            if method not in UNSCALED:
                scale = choose_scale(experts, delta, device=CPU)
            seconds = time.process_time() - started
            with tempfile.TemporaryDirectory(dir=self.work) as folder:
                write_baseline(experts, delta, scale, Path(folder) / "out")
                accuracy = self.accuracies(self.backbone(MergedFolder(Path(folder) / "out").model))
            return Result(accuracy, seconds, f"λ = {scale}" if scale != 1.0 else "")

        return self.remember(f"baseline {method}", make)

    def learned(
        self,
        settings: MergeSettings,
        tasks: Sequence[str] = (),
        start: Coefficients | None = None,
        frozen: Sequence[str] = (),
    ) -> Result:
        """A merge with learned coefficients."""

        def make() -> Result:
            started = time.process_time()
            learned = self.learn(settings, tasks, start, frozen)
            seconds = time.process_time() - started
            return Result(self.learned_accuracies(learned), seconds)

        parts = [settings.model_dump_json(), *(tasks or self.experts)]
        parts += [start.digest if start else "", *frozen]
        return self.remember(" ".join(parts), make)

    def learn(
        self,
        settings: MergeSettings,
        tasks: Sequence[str] = (),
        start: Coefficients | None = None,
        frozen: Sequence[str] = (),
    ) -> Learned:
        """The coefficients themselves; a finished run is read from the work folder."""
        return learn_coefficients(
            self.bench.experts.only(tasks or self.bench.experts.tasks),
            settings,
            start=start,
            frozen=frozen,
            work=self.work,
            device=CPU,
        )

    def learned_accuracies(self, learned: Learned) -> dict[str, float]:
        """Accuracy of each task with its own, perhaps tuned, head."""
        heads = {task: learned.heads[task] for task in learned.coefficients.tasks}
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            out = Path(folder) / "out"
            self.write(learned, out)
            return self.accuracies(self.backbone(MergedFolder(out).model), heads)

    def write(self, learned: Learned, out: Path) -> None:
        """The merged model as files."""
        experts = self.bench.experts.only(learned.coefficients.tasks)
        materialise(experts, learned.coefficients, learned.heads, out)

    def backbone(self, model: Path) -> Backbone:
        """The backbone in a folder."""
        return Backbone.open(model, self.bench.experts.kind)

    def accuracies(
        self, backbone: Backbone, heads: Mapping[str, Head] | None = None
    ) -> dict[str, float]:
        """Accuracy of a backbone on each task's gate examples."""
        heads = heads or self.bench.experts.heads
        return {
            task: evaluate(backbone, head, self.gate[task], CPU).accuracy
            for task, head in heads.items()
        }

    def remember(self, name: str, make: Callable[[], Result]) -> Result:
        """The figures under a name, measured once per bench and set of gate examples."""
        parts = [name, self.bench.experts.kind, str(self.bench.seed)]
        parts += [e.fingerprint for e in self.experts.values()]
        parts += [examples.digest for examples in self.gate.values()]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
        file = self._results / f"{digest}.json"
        if not file.exists():
            result = make()
            beside = file.with_suffix(".part")
            beside.write_text(json.dumps({"name": name, **dataclasses.asdict(result)}, indent=1))
            beside.replace(file)
        stored = json.loads(file.read_text())
        del stored["name"]
        return Result(**stored)

    def _floor(self) -> Result:
        base = self.bench.experts.base
        return Result(self.accuracies(self.backbone(base.directory)))

    def _ceiling(self) -> Result:
        def own(task: str, head: Head) -> float:
            backbone = self.bench.experts.backbone(task)
            return evaluate(backbone, head, self.gate[task], CPU).accuracy

        return Result({task: own(task, e.head) for task, e in self.experts.items()})
