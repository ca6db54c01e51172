"""How much of their experts' gain the merged models keep, on real experts of two backbones.

    python -m benchmarks.quality --quick      # one seed, fewer gate examples and variants
    python -m benchmarks.quality              # everything; hours on two cores, resumable
    python -m benchmarks.quality --quick --base DIR --expert TASK=DIR --expert TASK=DIR …

Prints Markdown tables. Accuracy is that of the task's gate examples, which nothing was chosen on.
"Gap" is the recovered gap, (merged − floor) / (expert − floor), where the floor is the base with the
expert's head. Figures are means over seeds. Measurements are kept in the cache: run it again after
an interruption and it goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cost import costs
from benchmarks.experts import NAMES, given_bench, load_bench
from benchmarks.laboratory import Laboratory, Result
from benchmarks.transfer import out_of_domain
from merging.baselines import ALL_METHODS
from merging.settings import MergeSettings

DEFAULT = MergeSettings()
PAPER = MergeSettings(
    objective="labels", granularity="tensor", balanced=False, calibration_size=128
)
TENSOR = DEFAULT.model_copy(update={"granularity": "tensor"})
ROW = DEFAULT.model_copy(update={"granularity": "row"})
Measure = Callable[[Laboratory], Result]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=list(NAMES), action="append", help="only this backbone")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one seed, 500 gate examples a task")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--base", type=Path, help="with --expert: experts that exist already")
    parser.add_argument("--expert", action="append", metavar="TASK=DIR")
    options = parser.parse_args()
    # On a CPU with bf16 units they multiply fp32 matrices; the same for every row of a table.
    torch.set_float32_matmul_precision("medium")
    rows = 500 if options.quick else None
    if options.expert:
        kind = (options.kind or ["text-classifier"])[0]
        bench = given_bench(kind, options.base, options.expert)
        print_tables([Laboratory(bench, options.cache, rows)], quick=options.quick)
        return
    for kind in options.kind or NAMES:
        benches = [
            load_bench(kind, seed, options.cache)
            for seed in range(1 if options.quick else options.seeds)
        ]
        laboratories = [Laboratory(bench, options.cache, rows) for bench in benches]
        print_tables(laboratories, quick=options.quick)


def print_tables(laboratories: Sequence[Laboratory], *, quick: bool) -> None:
    """All tables of one backbone; the first three for all seeds, the others for the first one."""
    print(f"\n## {laboratories[0].bench.kind}, seeds: {len(laboratories)}\n", flush=True)
    compare_learned(laboratories, quick=quick)
    compare_training_free(laboratories, quick=quick)
    compare_arrivals(laboratories)
    first = laboratories[:1]
    compare_groups(first)
    compare_calibration_sizes(first)
    compare_choices(first)
    compare_costs(first[0])
    out_of_domain(first[0], TENSOR)


def compare_learned(laboratories: Sequence[Laboratory], *, quick: bool) -> None:
    """The paper's method and what is beyond it."""
    table = Table("Learned coefficients", laboratories)
    table.reference()
    row = {"granularity": "row"}
    soft = {"objective": "experts"}
    few = {"tensor, labels": {}, "tensor, soft labels": soft, "row, soft labels": {**row, **soft}}
    many = few | {
        "tensor, both": {"objective": "both"},
        "row, both": {**row, "objective": "both"},
    }
    table.learned("the paper, 128 examples a task", PAPER)
    for size, variants in (() if quick else ((128, few),)) + ((400, many),):
        balanced = PAPER.model_copy(update={"balanced": True, "calibration_size": size})
        for name, changes in variants.items():
            table.learned(f"balanced, {size}: {name}", balanced.model_copy(update=changes))


def compare_choices(laboratories: Sequence[Laboratory]) -> None:
    """Single settings changed."""
    table = Table("Other choices, one at a time", laboratories)
    changed: dict[str, dict[str, Any]] = {
        "as it is": {},
        "without tanh": {"tanh": False},
        "entropy (AdaMerging)": {"objective": "entropy"},
        "one number per expert": {"granularity": "model"},
        "TSV-M before learning": {"preprocess": "tsv-m", "initial": 0.6},
        "Iso-C before learning": {"preprocess": "iso-c", "initial": 0.6},
        "int8 task vectors": {"storage": "int8"},
        "heads tuned along": {"tune_heads": True},
    }
    for name, changes in changed.items():
        table.learned(f"tensor: {name}", TENSOR.model_copy(update=changes))
    table.learned("row: as it is", ROW)
    table.learned("row: heads tuned along", ROW.model_copy(update={"tune_heads": True}))


def compare_training_free(laboratories: Sequence[Laboratory], *, quick: bool) -> None:
    """Baselines that learn nothing; λ is chosen on 128 labelled calibration examples a task."""
    table = Table("Training-free", laboratories)
    methods = ("task-arithmetic", "ties", "tsv-m", "iso-c") if quick else tuple(ALL_METHODS)
    for method in methods:
        table.add(method, partial(Laboratory.training_free, method=method))


def compare_calibration_sizes(laboratories: Sequence[Laboratory]) -> None:
    """How many calibration examples a task are needed."""
    table = Table("Calibration examples a task", laboratories)
    for size in (16, 32, 128):
        for name, settings in {"tensor": TENSOR, "row": ROW}.items():
            chosen = settings.model_copy(update={"calibration_size": size})
            table.learned(f"{size}: {name}", chosen)


def compare_groups(laboratories: Sequence[Laboratory]) -> None:
    """Flat against hierarchical merging."""
    table = Table("Groups, tensor", laboratories)
    for size in (None, 2, 4):
        if size is None or size < len(laboratories[0].experts):
            name = "flat" if size is None else f"groups of {size}"
            table.learned(name, TENSOR.model_copy(update={"group_size": size}))


def compare_arrivals(laboratories: Sequence[Laboratory]) -> None:
    """Experts that arrive one after another: chain, relearn, and all at once."""
    table = Table("After the last arrival, tensor", laboratories)
    table.learned("all at once", TENSOR)
    for name, frozen in (("relearn from the deployed one", False), ("chain", True)):
        table.add(name, partial(last_arrival, freeze=frozen))


def last_arrival(laboratory: Laboratory, *, freeze: bool) -> Result:
    """The model after every expert has been merged into the one before it."""
    tasks = list(laboratory.experts)
    start = laboratory.learn(TENSOR, tasks[:1]).coefficients
    for count in range(2, len(tasks)):
        old = tasks[: count - 1] if freeze else ()
        start = laboratory.learn(TENSOR, tasks[:count], start=start, frozen=old).coefficients
    return laboratory.learned(TENSOR, tasks, start=start, frozen=tasks[:-1] if freeze else ())


def compare_costs(laboratory: Laboratory) -> None:
    """Numbers trained and floating-point operations, beside fine-tuning one expert."""
    print("\n### Cost\n\n| | numbers trained | floating-point operations | processor seconds |")
    print("|---|---|---|---|")
    for cost in costs(laboratory, {"tensor": TENSOR, "row": ROW}):
        print(f"| {cost.name} | {cost.numbers:,} | {cost.operations:.2e} | {cost.seconds:.0f} |")


class Table:
    """Rows of accuracy and recovered gap, printed as soon as they are measured."""

    def __init__(self, title: str, laboratories: Sequence[Laboratory]) -> None:
        self.laboratories = laboratories
        self.tasks = list(laboratories[0].experts)
        print(f"\n### {title}\n")
        print("| | " + " | ".join(self.tasks) + " | mean gap | worst gap | processor seconds |")
        print("|---" * (len(self.tasks) + 4) + "|")

    def reference(self) -> None:
        """Base with the experts' heads, and the experts."""
        for name, part in (("base + head (floor)", "floor"), ("expert", "ceiling")):
            values = [[getattr(lab, part)[t] for lab in self.laboratories] for t in self.tasks]
            cells = " | ".join(f"{statistics.mean(v):.3f}" for v in values)
            print(f"| {name} | {cells} | {0.0 if part == 'floor' else 1.0:.2f} | | |", flush=True)

    def learned(self, name: str, settings: MergeSettings) -> None:
        """One row: a merge with learned coefficients."""
        self.add(name, partial(Laboratory.learned, settings=settings))

    def add(self, name: str, measure: Measure) -> None:
        """One row: the means over seeds."""
        results = [measure(laboratory) for laboratory in self.laboratories]
        pairs = list(zip(self.laboratories, results, strict=True))
        cells, gaps = [], []
        for task in self.tasks:
            accuracy = statistics.mean(result.accuracy[task] for result in results)
            gap = statistics.mean(laboratory.gap(result, task) for laboratory, result in pairs)
            cells.append(f"{accuracy:.3f} ({gap:+.2f})")
            gaps.append(gap)
        seconds = statistics.mean(result.seconds for result in results)
        note = f" ({results[0].note})" if results[0].note else ""
        means = f"{statistics.mean(gaps):+.3f} | {min(gaps):+.2f} | {seconds:.0f}"
        print(f"| {name}{note} | {' | '.join(cells)} | {means} |", flush=True)


if __name__ == "__main__":
    main()
