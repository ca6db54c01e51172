"""Synthetic experts of a real backbone, and what the engine's benchmark measures with."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.examples import Examples, Split
from merging.experts.expert import Expert, ExpertFiles
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.learning.merge import Merge
from merging.learning.objectives import objective_loss
from merging.learning.stream import StreamedMerge
from merging.learning.taskmodels import TaskModels
from merging.learning.weights import TensorWeights
from merging.safefile import save_tensors
from merging.settings import Storage
from merging.vectors.mapped import TaskVectors, build_vectors

KIND = ModelKind.TEXT_CLASSIFIER
CPU = torch.device("cpu")
BATCH, TOKENS, CLASSES = 16, 32, 4


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    found: str
    goal: str = ""
    reached: bool | None = None

    def __str__(self) -> str:
        """As a line of the table."""
        mark = {None: "", True: "reached", False: "NOT reached"}[self.reached]
        return f"{self.what:<74} {self.found:>18}  {self.goal:<9} {mark}"


@dataclass(frozen=True)
class Noise:
    """A task vector of a few percent of the base, the same for the same number."""

    base: Checkpoint
    number: int

    def delta(self, name: str) -> Tensor:
        """fp32 in the tensor's shape."""
        tensor = self.base.read(name).float()
        seed = int.from_bytes(f"{self.number}{name}".encode()[-7:], "big")
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(tensor.shape, generator=generator) * (tensor.std() * 0.05 + 1e-4)


class Bench:
    """One base, its synthetic experts and batches of 16 x 32 tokens."""

    def __init__(self, base: Path, work: Path) -> None:
        self.directory = base
        self.work = work
        self.base = Checkpoint.open(base)
        self.names = [
            n
            for n in backbone_names(self.base, KIND)
            if self.base.tensors[n].dtype.is_floating_point
        ]
        self.model_bytes = 4 * sum(
            torch.Size(self.base.tensors[n].shape).numel() for n in self.names
        )
        torch.manual_seed(0)
        vocabulary = int(self.base.config["vocab_size"])
        self.ids = [torch.randint(5, vocabulary, (BATCH, TOKENS)) for _ in range(8)]
        self.targets = torch.randint(0, CLASSES, (BATCH,))

    def head(self, number: int) -> Head:
        """A random head with four classes."""
        labels = {str(i): f"label {i}" for i in range(CLASSES)}
        config = {**self.base.config, "id2label": labels, "label2id": {}}
        weight = torch.randn(CLASSES, int(self.base.config["hidden_size"])) * 0.05
        tensors = {"classifier.weight": weight, "classifier.bias": torch.zeros(CLASSES)}
        return Head(f"t{number}", config, tensors)

    def models(self, tasks: int) -> TaskModels:
        """Task models with random heads on one merged backbone."""
        heads = [self.head(i) for i in range(tasks)]
        return TaskModels(self.base, heads, KIND, self.names, CPU)

    def vectors(self, experts: int, storage: Storage = "fp32") -> TaskVectors:
        """The task vectors of so many synthetic experts, from a file in the work folder."""
        path = self.work / f"{self.directory.name}-{experts}-{storage}.safetensors"
        sources = [Noise(self.base, i) for i in range(experts)]
        lookups = self.models(1).lookups
        build_vectors(path, self.base, sources, self.names, storage, lookups)
        return TaskVectors(path)

    def merge(self, models: TaskModels, experts: int, storage: Storage = "fp32") -> Merge:
        """A streamed merge of so many experts into the parameters of `models`."""
        weights = {
            n: TensorWeights(torch.full((experts,), 0.1), tanh=True, learning_rate=0.01)
            for n in self.names
        }
        return StreamedMerge(models.merged, self.vectors(experts, storage), weights, models.lookups)

    def loss(self, models: TaskModels, task: int) -> Tensor:
        """Cross-entropy of one task's batch, a scalar with a graph."""
        ids = self.ids[task]
        logits = models.models[f"t{task}"](
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).logits
        return objective_loss("labels", logits, self.targets, None)

    def bare(self, models: TaskModels, tasks: int) -> None:
        """Forwards and backwards without merging; gradients are dropped at the end."""
        for task in range(tasks):
            self.loss(models, task).backward()
        for parameter in models.merged.values():
            parameter.grad = None

    def step(self, models: TaskModels, merge: Merge, tasks: int) -> None:
        """One step of the merge: the same, with the coefficients updated."""
        merge.step += 1
        for task in range(tasks):
            merge.last_backward = task == tasks - 1
            self.loss(models, task).backward()
        merge.finish_step()

    def expert_files(self, number: int) -> Expert:
        """An expert as a checkpoint of its own."""
        directory = self.work / f"expert-{number}"
        head = self.head(number)
        if not directory.exists():
            noise = Noise(self.base, number)
            tensors = {f"bert.{n}": self.base.read(n).float() + noise.delta(n) for n in self.names}
            directory.mkdir()
            (directory / "config.json").write_text(json.dumps(dict(head.config)))
            save_tensors(directory / "model.safetensors", {**tensors, **head.tensors})
        return self.expert(number, directory)

    def expert(self, number: int, directory: Path) -> Expert:
        """An expert without examples, whose checkpoint is in `directory`."""
        head, empty = self.head(number), Examples(KIND, (), (), (), ())
        return Expert(head.task, ExpertFiles(directory), head, Split(empty, empty), str(number))


def autograd_step(bench: Bench, models: TaskModels, vectors: TaskVectors, form: str) -> None:
    """The same step as plain autograd does it, or as AdaMerging's published code writes it.

    Plain: one weighted sum over a stacked tensor. AdaMerging: a tuple of parameters per expert,
    multiplied and added one after the other, so autograd keeps a product per expert and tensor.
    """
    experts = vectors.num_experts
    w = {n: torch.full((experts,), 0.1, requires_grad=True) for n in bench.names}
    merged = {}
    for name in bench.names:
        parts = vectors.stack(name).parts
        stack = parts[0].stack  # type: ignore[attr-defined]
        base = vectors.base(name)
        if form == "autograd":
            merged[name] = base + (w[name].tanh() @ stack.flatten(1)).view(base.shape)
        else:
            total = base
            for c, delta in zip(w[name], stack, strict=True):
                total = total + c * delta
            merged[name] = total
    model = models.models["t0"]
    names = {id(p): n for n, p in models.merged.items()}
    values = {path: merged[names[id(p)]] for path, p in model.named_parameters() if id(p) in names}
    ids = bench.ids[0]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = functional_call(model, values, (), inputs).logits
    objective_loss("labels", logits, bench.targets, None).backward()


def ratio(first: Callable[[], None], second: Callable[[], None], pairs: int) -> tuple[float, float]:
    """Median of first/second over pairs run in turn, by wall clock and by processor time."""
    second()
    first()
    wall, processor = [], []
    for _ in range(pairs):
        times = []
        for run in (second, first):
            start = (time.perf_counter(), time.process_time())
            run()
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        wall.append(times[1][0] / times[0][0])
        processor.append(times[1][1] / times[0][1])
    return statistics.median(wall), statistics.median(processor)
