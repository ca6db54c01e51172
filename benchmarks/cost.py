"""What learning a merge costs beside fine-tuning one expert: numbers trained and operations."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.laboratory import CPU, Laboratory
from infra.demo.tasks import TASKS
from infra.demo.train import Recipe
from merging.calibration import batch_indices, calibration_sets
from merging.checkpoint import Checkpoint
from merging.deltas import mergeable_names
from merging.settings import MergeSettings
from merging.taskmodels import TaskModels


def costs(
    laboratory: Laboratory, variants: Mapping[str, MergeSettings]
) -> list[tuple[str, int, float]]:
    """Name, numbers trained, floating-point operations: of merges and of fine-tuning each expert.

    A batch's operations are counted once per task, on its calibration examples, forward and
    backward. A merge adds per step the inner products and the rebuilding, two operations each per
    number of every task vector. Looking at held-out examples and the soft labels are left out.
    """
    settings = next(iter(variants.values()))
    bench = laboratory.bench
    base = Checkpoint.open(bench.base)
    names = mergeable_names(bench.base, bench.experts, bench.kind)
    size = sum(math.prod(base.tensors[name].shape) for name in names)
    models = TaskModels(base, [e.head for e in bench.experts], bench.kind, names, CPU)
    per_example: dict[str, float] = {}
    for expert in bench.experts:
        examples, _ = calibration_sets(bench.base, expert, bench.kind, settings, laboratory.work)
        indices = batch_indices(len(examples), 32, 0, expert.task, settings.seed)
        with FlopCounterMode(display=False) as counter:
            examples.loss(models.models[expert.task], indices, settings).backward()  # type: ignore[no-untyped-call]
        per_example[expert.task] = counter.get_total_flops() / len(indices)
    num_experts = len(bench.experts)
    rows = []
    for name, chosen in variants.items():
        by_row = chosen.granularity == "row"
        steps = chosen.steps + chosen.row_steps * by_row
        numbers = sum(
            1 + base.tensors[n].shape[0] * (by_row and n in models.row_names) for n in names
        )
        operations = steps * chosen.batch_size * sum(per_example.values())
        operations += steps * 4 * num_experts * size
        rows.append((f"one merge of {num_experts}, {name}", num_experts * numbers, operations))
    for expert in bench.experts:
        examples_seen = TASKS[expert.task].train * Recipe().epochs
        head = sum(tensor.numel() for tensor in expert.head.tensors.values())
        operations = examples_seen * per_example[expert.task]
        rows.append((f"fine-tuning {expert.task}", size + head, operations))
    return rows
