"""Time, memory and bytes of the merging engine, in one table.

    OMP_NUM_THREADS=1 python -m benchmarks.engine
    python -m benchmarks.engine --experts 2 8 --large    # fewer sizes, and a 109 M model as well

Experts are synthetic: the text backbone plus noise, since only sizes matter here. Times come in
pairs that run in turn, and the median of their ratios is shown, because the machines this runs on
are noisy. Every row says what was measured, the goal, and whether it was reached.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from infra.demo.backbones import build_base
from merging.checkpoint import Checkpoint
from merging.coefficients import Coefficients
from merging.deltas import backbone_names
from merging.examples import Examples, Split
from merging.experts import Expert
from merging.heads import Head
from merging.materialise import materialise
from merging.objectives import objective_loss
from merging.plan import Memory, make_plan
from merging.safefile import save_tensors
from merging.settings import MergeSettings
from merging.stream import StreamedMerge
from merging.taskmodels import TaskModels
from merging.vectors import TaskVectors, build_vectors
from merging.weights import TensorWeights

KIND = "text-classifier"
CPU = torch.device("cpu")
BATCH, TOKENS, CLASSES = 16, 32, 4
LARGE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE |= {"intermediate_size": 3072}  # BERT base: 109 M parameters


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    found: str
    goal: str = ""
    reached: bool | None = None

    def __str__(self) -> str:
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
        labels = {str(i): f"label {i}" for i in range(CLASSES)}
        config = {**self.base.config, "id2label": labels, "label2id": {}}
        weight = torch.randn(CLASSES, int(self.base.config["hidden_size"])) * 0.05
        tensors = {"classifier.weight": weight, "classifier.bias": torch.zeros(CLASSES)}
        return Head(f"t{number}", config, tensors)

    def models(self, tasks: int) -> TaskModels:
        heads = [self.head(i) for i in range(tasks)]
        return TaskModels(self.base, heads, KIND, self.names, CPU)

    def vectors(self, experts: int, storage: str = "fp32") -> TaskVectors:
        path = self.work / f"{self.directory.name}-{experts}-{storage}.safetensors"
        sources = [Noise(self.base, i) for i in range(experts)]
        lookups = self.models(1).lookups
        build_vectors(path, self.base, sources, self.names, storage, lookups)  # type: ignore[arg-type]
        return TaskVectors(path)

    def merge(self, models: TaskModels, experts: int, storage: str = "fp32") -> StreamedMerge:
        weights = {
            n: TensorWeights(torch.full((experts,), 0.1), tanh=True, learning_rate=0.01)
            for n in self.names
        }
        return StreamedMerge(models.merged, self.vectors(experts, storage), weights, models.lookups)

    def loss(self, models: TaskModels, task: int) -> Tensor:
        ids = self.ids[task]
        logits = models.models[f"t{task}"](
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).logits
        return objective_loss("labels", logits, self.targets, None)

    def bare(self, models: TaskModels, tasks: int) -> None:
        for task in range(tasks):
            self.loss(models, task).backward()
        for parameter in models.merged.values():
            parameter.grad = None

    def step(self, models: TaskModels, merge: StreamedMerge, tasks: int) -> None:
        merge.step += 1
        for task in range(tasks):
            merge.last_backward = task == tasks - 1
            self.loss(models, task).backward()
        merge.finish_step()


def ratio(first: Callable[[], None], second: Callable[[], None], pairs: int) -> tuple[float, float]:
    """Median of first/second over pairs run in turn, by wall clock and by processor time."""
    second(), first()
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


def step_times(bench: Bench, sizes: list[int], pairs: int) -> list[Row]:
    rows = []
    for experts in sizes:
        for tasks, goals in ((8, {8: 1.10, 32: 1.30}), (1, {8: 1.30})):
            plain, models = bench.models(tasks), bench.models(tasks)
            merge = bench.merge(models, experts)
            wall, processor = ratio(
                lambda m=models, g=merge, t=tasks: bench.step(m, g, t),
                lambda p=plain, t=tasks: bench.bare(p, t),
                pairs,
            )
            goal = goals.get(experts)
            rows.append(
                Row(
                    f"step / bare forwards and backwards, K={experts}, {tasks} micro-batches",
                    f"{wall:.2f} (cpu {processor:.2f})",
                    f"<= {goal:.2f}" if goal else "",
                    processor <= goal if goal else None,
                )
            )
            print(rows[-1], flush=True)
    return rows


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


def peak_bytes(base: Path, work: Path, form: str, experts: int) -> int:
    """Peak resident memory of three steps above the idle process, in a process of its own."""
    arguments = [sys.executable, "-m", "benchmarks.engine", "--peak", form, str(experts), str(base)]
    arguments.append(str(work))
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=os.environ)
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def measure_peak(form: str, experts: int, base: Path, work: Path) -> None:
    """What `peak_bytes` runs: VmHWM, which counts mapped file pages too."""
    bench = Bench(base, work)
    vectors = bench.vectors(experts)
    del vectors
    warm = torch.nn.Linear(64, 64)
    warm(torch.randn(8, 64)).sum().backward()  # libraries load before the count begins
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmHWM")
    models = bench.models(1)
    if form == "streamed":
        merge = bench.merge(models, experts)
        for _ in range(3):
            bench.step(models, merge, 1)
    elif form == "bare":
        for _ in range(3):
            bench.bare(models, 1)
    else:
        vectors = bench.vectors(experts)
        for _ in range(2):
            autograd_step(bench, models, vectors, form)
    print(json.dumps({"peak": _status("VmHWM") - before}))


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def memory(bench: Bench, sizes: list[int]) -> list[Row]:
    rows = []
    peaks = {k: peak_bytes(bench.directory, bench.work, "streamed", k) for k in sizes}
    slope = (peaks[sizes[-1]] - peaks[sizes[0]]) / (sizes[-1] - sizes[0]) / bench.model_bytes
    for experts, peak in peaks.items():
        rows.append(Row(f"peak memory of streamed steps, K={experts}", f"{peak / 1e6:.0f} MB"))
    share = f"{100 * slope:.1f} % of model"
    rows.append(Row("more memory per expert, streamed", share, "< 5 %", slope < 0.05))
    few = [k for k in sizes if k <= 8]
    for form in ("autograd", "AdaMerging sum"):
        found = {k: peak_bytes(bench.directory, bench.work, form, k) for k in few}
        for experts, peak in found.items():
            rows.append(Row(f"peak memory of {form}, K={experts}", f"{peak / 1e6:.0f} MB"))
    experts = sizes[len(sizes) // 2]
    predicted = predicted_peak(bench, experts)
    error = predicted / peaks[experts] - 1
    rows.append(
        Row(
            f"planner's prediction against measured peak, K={experts}",
            f"{predicted / 1e6:.0f} MB, {100 * error:+.0f} %",
            "+-20 %",
            abs(error) <= 0.2,
        )
    )
    for row in rows:
        print(row, flush=True)
    return rows


def predicted_peak(bench: Bench, experts: int) -> int:
    """The planner's peak for the batches of this benchmark."""
    empty = Examples(KIND, (), (), (), ())
    made = [
        Expert(f"t{i}", bench.directory, bench.head(0), Split(empty, empty), str(i))
        for i in range(experts)
    ]
    settings = MergeSettings(batch_size=BATCH)
    return make_plan(bench.directory, made, KIND, settings, Memory.of(CPU), tokens=TOKENS).peak


def other_forms(bench: Bench, pairs: int) -> list[Row]:
    rows = []
    plain = bench.models(1)
    vectors = bench.vectors(8)
    for form in ("autograd", "AdaMerging sum"):
        models = bench.models(1)
        wall, processor = ratio(
            lambda m=models, f=form: autograd_step(bench, m, vectors, f),
            lambda: bench.bare(plain, 1),
            pairs,
        )
        rows.append(
            Row(f"{form} step / bare, K=8, 1 micro-batch", f"{wall:.2f} (cpu {processor:.2f})")
        )
        print(rows[-1], flush=True)
    return rows


def read_speed(bench: Bench, pairs: int) -> list[Row]:
    """Inner products and weighted sums over all stacks against a plain read of as many bytes.

    Embeddings are left out: a step reads some rows of them only.
    """
    vectors = bench.vectors(8)
    lookups = bench.models(1).lookups
    gradients = {
        n: torch.randn(bench.base.tensors[n].shape) for n in bench.names if n not in lookups
    }
    coefficients = torch.rand(8)
    plain = torch.randn(8 * sum(gradient.numel() for gradient in gradients.values()))

    def engine() -> None:
        for name in gradients:
            vectors.stack(name).inner(gradients[name], rows=False)
            vectors.stack(name).add(gradients[name], coefficients)

    def read_twice() -> None:
        plain.sum(), plain.sum()

    wall, processor = ratio(read_twice, engine, pairs)
    found = f"{wall:.2f} (cpu {processor:.2f})"
    rows = [Row("task vectors read a second / plain read, K=8", found, ">= 0.6", processor >= 0.6)]
    print(rows[0], flush=True)
    return rows


def materialising(bench: Bench, experts: int, pairs: int) -> list[Row]:
    """Materialise against copying the same files: base and experts read, one model written."""
    made = [_write_expert(bench, i) for i in range(experts)]
    tasks = [e.task for e in made]
    coefficients = Coefficients.constant(tasks, bench.names, 0.3)
    heads = {e.task: e.head for e in made}
    out = bench.work / "out"
    buffer = bytearray(1 << 22)

    def engine() -> None:
        materialise(bench.directory, made, KIND, coefficients, heads, out)

    def copies() -> None:
        for expert in made:
            with (expert.directory / "model.safetensors").open("rb") as file:
                while file.readinto(buffer):
                    pass
        target = bench.work / "copy.safetensors"
        shutil.copyfile(bench.directory / "model.safetensors", target)
        with target.open("rb+") as file:
            os.fsync(file.fileno())

    wall, processor = ratio(engine, copies, pairs)
    found = f"{wall:.2f} (cpu {processor:.2f})"
    rows = [
        Row(
            f"materialise / file copies of the same bytes, K={experts}",
            found,
            "<= 1.5",
            wall <= 1.5,
        )
    ]
    print(rows[0], flush=True)
    return rows


def _write_expert(bench: Bench, number: int) -> Expert:
    directory = bench.work / f"expert-{number}"
    head = bench.head(number)
    if not directory.exists():
        noise = Noise(bench.base, number)
        tensors = {f"bert.{n}": bench.base.read(n).float() + noise.delta(n) for n in bench.names}
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(dict(head.config)))
        save_tensors(directory / "model.safetensors", {**tensors, **head.tensors})
    empty = Examples(KIND, (), (), (), ())
    return Expert(head.task, directory, head, Split(empty, empty), str(number))


def storage(bench: Bench, pairs: int) -> list[Row]:
    rows = []
    whole = bench.vectors(8).nbytes
    plain = bench.models(1)
    for kept in ("fp32", "bf16", "int8"):
        vectors = bench.vectors(8, kept)
        models = bench.models(1)
        merge = bench.merge(models, 8, kept)
        wall, processor = ratio(
            lambda m=models, g=merge: bench.step(m, g, 1), lambda: bench.bare(plain, 1), pairs
        )
        found = f"{vectors.nbytes / whole:.2f}, {wall:.2f} (cpu {processor:.2f})"
        rows.append(Row(f"{kept} vectors: bytes / fp32's, step / bare (K=8, 1 micro-batch)", found))
        print(rows[-1], flush=True)
    return rows


def large_base(work: Path, small: Path) -> Path:
    """A random model of BERT base's size with the small base's vocabulary."""
    from transformers import BertConfig, BertModel

    directory = work / "bert-base-sized"
    if not directory.exists():
        vocabulary = json.loads((small / "config.json").read_text())["vocab_size"]
        BertModel(BertConfig(vocab_size=vocabulary, **LARGE)).save_pretrained(directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs for each ratio")
    parser.add_argument(
        "--large", action="store_true", help="a 109 M model as well (10 GB of disk)"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        form, experts, base, work = arguments.peak
        measure_peak(form, int(experts), Path(base), Path(work))
        return
    base = build_base(arguments.cache)
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="engine.") as folder:
        bench = Bench(base, Path(folder))
        print(f"{bench.model_bytes / 4e6:.1f} M parameters, {torch.get_num_threads()} threads\n")
        rows = step_times(bench, arguments.experts, arguments.pairs)
        rows += other_forms(bench, arguments.pairs)
        rows += memory(bench, arguments.experts)
        rows += read_speed(bench, arguments.pairs)
        rows += materialising(bench, 4, arguments.pairs)
        rows += storage(bench, arguments.pairs)
        if arguments.large:
            big = Bench(large_base(Path(folder), base), Path(folder))
            print(f"\n{big.model_bytes / 4e6:.1f} M parameters")
            rows += step_times(big, [2, 8], 3)
            rows += memory(big, [2, 8])
        reached = [row.reached for row in rows if row.reached is not None]
        print(f"\n{sum(reached)} of {len(reached)} goals reached")


if __name__ == "__main__":
    main()
