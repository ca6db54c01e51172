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
import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cost import costs
from benchmarks.experts import NAMES, given_bench, load_bench
from benchmarks.laboratory import Laboratory, Result
from benchmarks.transfer import out_of_domain
from merging.baselines.baseline import ALL_METHODS
from merging.kinds import ModelKind
from merging.settings import MergeSettings

DEFAULT = MergeSettings()
SHORT = DEFAULT.tensor_steps  # a third of the steps, after which rows begin
PAPER = MergeSettings(
    objective="labels",
    granularity="tensor",
    tanh=True,
    balanced=False,
    calibration_size=128,
    steps=SHORT,
)
TENSOR = DEFAULT.model_copy(update={"granularity": "tensor", "steps": SHORT})
LONG = DEFAULT.model_copy(update={"granularity": "tensor"})
ROW = DEFAULT.model_copy(update={"granularity": "row"})
BOTH = {"tensor": TENSOR, "row": ROW}
Measure = Callable[[Laboratory], Result]


def main() -> None:
    """Prints the tables that were asked for, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kind",
        type=ModelKind,  # type: ignore[arg-type]  # mypy asks for what a member is made of
        choices=list(NAMES),
        action="append",
        help="only this backbone",
    )
    parser.add_argument("--table", choices=TABLES, action="append", help="only this table")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one seed, 500 gate examples a task")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--base", type=Path, help="with --expert: experts that exist already")
    parser.add_argument("--expert", action="append", metavar="TASK=DIR")
    options = parser.parse_args()
    # On a CPU with bf16 units they multiply fp32 matrices; the same for every row of a table.
    torch.set_float32_matmul_precision("medium")
    seeds = range(1 if options.quick else options.seeds)
    if options.expert:
        kind = (options.kind or [ModelKind.TEXT_CLASSIFIER])[0]
        backbones = [[given_bench(kind, options.base, options.expert)]]
    else:
        kinds = options.kind or NAMES
        backbones = [[load_bench(kind, seed, options.cache) for seed in seeds] for kind in kinds]
    for benches in backbones:
        print(f"\n## {benches[0].experts.kind}, seeds: {len(benches)}\n", flush=True)
        laboratories = [Laboratory(bench, options.cache, options.quick) for bench in benches]
        for name in options.table or TABLES:
            TABLES[name](laboratories)


def compare_learned(laboratories: Sequence[Laboratory]) -> None:
    """The paper's method and what is beyond it."""
    table = Table("Learned coefficients", laboratories)
    table.reference()
    row = {"granularity": "row", "steps": DEFAULT.steps}
    soft = {"objective": "experts"}
    few: dict[str, dict[str, Any]] = {
        "tensor, labels": {},
        "tensor, soft labels": soft,
        "row, soft labels": {**row, **soft},
    }
    many = few | {
        "tensor, both": {"objective": "both"},
        "row, both": {**row, "objective": "both"},
    }
    table.learned("the paper, 128 examples a task", PAPER)
    for size, variants in (() if laboratories[0].quick else ((128, few),)) + ((400, many),):
        balanced = PAPER.model_copy(update={"balanced": True, "calibration_size": size})
        for name, changes in variants.items():
            table.learned(f"balanced, {size}: {name}", balanced.model_copy(update=changes))
    for name, settings in {
        "tensor": TENSOR,
        f"tensor, {LONG.steps} steps": LONG,
        "row": ROW,
    }.items():
        table.learned(f"without tanh, balanced, 400: {name}, both", settings)


def compare_choices(laboratories: Sequence[Laboratory]) -> None:
    """Single settings changed; first seed."""
    table = Table("Other choices, one at a time", laboratories[:1])
    tsv_m: dict[str, Any] = {"preprocess": "tsv-m", "initial": 1.0}
    changed: dict[str, dict[str, Any]] = {
        "as it is": {},
        "with tanh": {"tanh": True},
        "labels alone": {"objective": "labels"},
        "soft labels alone": {"objective": "experts"},
        "TSV-M before learning": tsv_m,
        "heads tuned along": {"tune_heads": True},
    }
    per_tensor: dict[str, dict[str, Any]] = {
        "Iso-C before learning": {"preprocess": "iso-c", "initial": 1.0},
        "entropy (AdaMerging)": {"objective": "entropy"},
        "one number per expert": {"granularity": "model"},
        f"{LONG.steps} steps": {"steps": LONG.steps},
        f"TSV-M, {LONG.steps} steps": {**tsv_m, "steps": LONG.steps},
        "learning rate 0.2": {"learning_rate": 0.2},
        "int8 task vectors": {"storage": "int8"},
    }
    for name, changes in {**changed, **per_tensor}.items():
        table.learned(f"tensor: {name}", TENSOR.model_copy(update=changes))
    for name, changes in changed.items():
        table.learned(f"row: {name}", ROW.model_copy(update=changes))


def compare_training_free(laboratories: Sequence[Laboratory]) -> None:
    """Baselines that learn nothing; λ is chosen on 128 labelled calibration examples a task."""
    table = Table("Training-free", laboratories)
    few = ("task-arithmetic", "ties", "tsv-m", "iso-c")
    methods = few if laboratories[0].quick else tuple(ALL_METHODS)
    for method in methods:
        table.add(method, partial(Laboratory.training_free, method=method))


def compare_calibration_sizes(laboratories: Sequence[Laboratory]) -> None:
    """How many calibration examples a task are needed; first seed."""
    table = Table("Calibration examples a task", laboratories[:1])
    for size in (16, 32, 128):
        for name, settings in BOTH.items():
            chosen = settings.model_copy(update={"calibration_size": size})
            table.learned(f"{size}: {name}", chosen)


def compare_groups(laboratories: Sequence[Laboratory]) -> None:
    """Flat against hierarchical merging; first seed."""
    table = Table("Groups", laboratories[:1])
    for name, settings in BOTH.items():
        table.learned(f"{name}: flat", settings)
        for size in (2, 4):
            if size < len(table.tasks):
                grouped = settings.model_copy(update={"group_size": size})
                table.learned(f"{name}: groups of {size}", grouped)


def compare_arrivals(laboratories: Sequence[Laboratory]) -> None:
    """Experts that arrive one after another: chain, relearn, and all at once."""
    table = Table("After the last arrival", laboratories)
    for name, settings in BOTH.items():
        table.learned(f"{name}: all at once", settings)
        for way, frozen in (("relearn from the deployed one", False), ("chain", True)):
            table.add(f"{name}: {way}", partial(last_arrival, settings=settings, freeze=frozen))


def last_arrival(laboratory: Laboratory, *, settings: MergeSettings, freeze: bool) -> Result:
    """The model after every expert has been merged into the one before it."""
    tasks = list(laboratory.experts)
    start = laboratory.learn(settings, tasks[:1]).coefficients
    for count in range(2, len(tasks)):
        old = tasks[: count - 1] if freeze else ()
        start = laboratory.learn(settings, tasks[:count], start=start, frozen=old).coefficients
    return laboratory.learned(settings, tasks, start=start, frozen=tasks[:-1] if freeze else ())


def probe_left_out(laboratories: Sequence[Laboratory]) -> None:
    """Tasks that no expert was trained for; first seed."""
    out_of_domain(laboratories[0], BOTH)


def compare_costs(laboratories: Sequence[Laboratory]) -> None:
    """Numbers trained and floating-point operations, beside fine-tuning one expert; first seed."""
    print("\n### Cost\n\n| | numbers trained | floating-point operations | processor seconds |")
    print("|---|---|---|---|")
    for cost in costs(laboratories[0], BOTH):
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


TABLES: Mapping[str, Callable[[Sequence[Laboratory]], None]] = {
    "learned": compare_learned,
    "training-free": compare_training_free,
    "arrivals": compare_arrivals,
    "groups": compare_groups,
    "sizes": compare_calibration_sizes,
    "choices": compare_choices,
    "cost": compare_costs,
    "left-out": probe_left_out,
}

if __name__ == "__main__":
    main()
