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

STEPS = 40
PAPER = MergeSettings(objective="labels", granularity="tensor", tune_heads=False, steps=STEPS)
SOFT = PAPER.model_copy(update={"objective": "experts"})
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
    """All tables of one backbone."""
    print(f"\n## {laboratories[0].bench.kind}, seeds: {len(laboratories)}\n", flush=True)
    compare_variants(laboratories, quick=quick)
    compare_arrivals(laboratories)
    compare_training_free(laboratories, quick=quick)
    compare_costs(laboratories[0])
    compare_calibration_sizes(laboratories, quick=quick)
    compare_groups(laboratories)
    out_of_domain(laboratories[0], SOFT)


def compare_variants(laboratories: Sequence[Laboratory], *, quick: bool) -> None:
    """The paper's method and what is beyond it, at 128 calibration examples a task."""
    table = Table("Learned, 128 calibration examples a task", laboratories)
    table.reference()
    soft = {"objective": "experts"}
    row, heads = {"granularity": "row"}, {"tune_heads": True}
    variants: dict[str, dict[str, Any]] = {
        "tensor, labels (the paper)": {},
        "tensor, soft labels": soft,
        "tensor + heads, soft labels": {**heads, **soft},
        "row, soft labels": {**row, **soft},
        "row + heads, soft labels": {**row, **heads, **soft},
        "tensor, labels, without tanh": {"tanh": False},
    }
    if not quick:
        variants |= {
            "tensor, both": {"objective": "both"},
            "tensor, entropy (AdaMerging)": {"objective": "entropy"},
            "one number per expert, labels": {"granularity": "model"},
            "row, labels": row,
            "tensor + heads, labels": heads,
        }
    for name, changes in variants.items():
        settings = PAPER.model_copy(update=changes)
        table.add(name, partial(Laboratory.learned, settings=settings))


def compare_training_free(laboratories: Sequence[Laboratory], *, quick: bool) -> None:
    """Baselines that learn nothing; λ is chosen on 128 labelled calibration examples a task."""
    table = Table("Training-free", laboratories)
    methods = ("task-arithmetic", "ties", "tsv-m", "iso-c") if quick else tuple(ALL_METHODS)
    for method in methods:
        table.add(method, partial(Laboratory.training_free, method=method))


def compare_calibration_sizes(laboratories: Sequence[Laboratory], *, quick: bool) -> None:
    """How many calibration examples a task are needed."""
    table = Table("Calibration examples a task", laboratories)
    sizes = (32, 400) if quick else (16, 32, 400)
    for size in sizes:
        for name, settings in {
            "tensor, labels": PAPER,
            "tensor, soft labels": SOFT,
            "row, soft labels": SOFT.model_copy(update={"granularity": "row"}),
        }.items():
            chosen = settings.model_copy(update={"calibration_size": size})
            table.add(f"{size}: {name}", partial(Laboratory.learned, settings=chosen))


def compare_groups(laboratories: Sequence[Laboratory]) -> None:
    """Flat against hierarchical merging."""
    table = Table("Groups, tensor, soft labels", laboratories)
    for size in (None, 2, 4):
        if size is None or size < len(laboratories[0].experts):
            chosen = SOFT.model_copy(update={"group_size": size})
            name = "flat" if size is None else f"groups of {size}"
            table.add(name, partial(Laboratory.learned, settings=chosen))


def compare_arrivals(laboratories: Sequence[Laboratory]) -> None:
    """Experts that arrive one after another: chain, relearn, and all at once."""
    table = Table("After the last arrival, tensor, soft labels", laboratories)
    table.add("all at once", partial(Laboratory.learned, settings=SOFT))
    for name, frozen in (("relearn from the deployed one", False), ("chain", True)):
        table.add(name, partial(last_arrival, freeze=frozen))


def last_arrival(laboratory: Laboratory, *, freeze: bool) -> Result:
    """The model after every expert has been merged into the one before it."""
    tasks = list(laboratory.experts)
    start = laboratory.learn(SOFT, tasks[:1]).coefficients
    for count in range(2, len(tasks)):
        old = tasks[: count - 1] if freeze else ()
        start = laboratory.learn(SOFT, tasks[:count], start=start, frozen=old).coefficients
    return laboratory.learned(SOFT, tasks, start=start, frozen=tasks[:-1] if freeze else ())


def compare_costs(laboratory: Laboratory) -> None:
    """Numbers trained and floating-point operations, beside fine-tuning one expert."""
    print("\n### Cost\n\n| | numbers trained | floating-point operations |\n|---|---|---|")
    for name, numbers, operations in costs(laboratory, SOFT):
        print(f"| {name} | {numbers:,} | {operations:.2e} |")


class Table:
    """Rows of accuracy and recovered gap, printed as soon as they are measured."""

    def __init__(self, title: str, laboratories: Sequence[Laboratory]) -> None:
        self.laboratories = laboratories
        self.tasks = list(laboratories[0].experts)
        print(f"\n### {title}\n")
        print("| | " + " | ".join(self.tasks) + " | mean gap | worst gap | seconds |")
        print("|---" * (len(self.tasks) + 4) + "|")

    def reference(self) -> None:
        """Base with the experts' heads, and the experts."""
        for name, part in (("base + head (floor)", "floor"), ("expert", "ceiling")):
            values = [[getattr(lab, part)[t] for lab in self.laboratories] for t in self.tasks]
            cells = " | ".join(f"{statistics.mean(v):.3f}" for v in values)
            print(f"| {name} | {cells} | {0.0 if part == 'floor' else 1.0:.2f} | | |", flush=True)

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
