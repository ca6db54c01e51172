"""What learning a merge costs beside fine-tuning one expert: numbers trained and operations."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.laboratory import CPU, Laboratory
from infra.demo.tasks import TASKS
from infra.demo.train import Recipe
from merging.learning.calibration import batch_indices, calibration_sets
from merging.learning.taskmodels import TaskModels
from merging.settings import MergeSettings


@dataclass(frozen=True)
class Cost:
    """What making one model takes.

    Attributes:
        name: Of what is made.
        numbers: Trained.
        operations: Floating-point operations.
        seconds: Of one processor, for the forward and backward passes: examples times the time that
            one example took in a batch.
    """

    name: str
    numbers: int
    operations: float
    seconds: float


def costs(laboratory: Laboratory, variants: Mapping[str, MergeSettings]) -> list[Cost]:
    """Of merges, and of fine-tuning each expert.

    A batch is counted and timed once per task, on its calibration examples, forward and backward. A
    merge adds per step the inner products and the rebuilding, two operations each per number of
    every task vector. Looking at held-out examples and the soft labels are left out.
    """
    settings = next(iter(variants.values()))
    merged = laboratory.bench.experts
    base, names = merged.base, merged.names
    size = sum(math.prod(base.tensors[name].shape) for name in names)
    models = TaskModels(base, list(merged.heads.values()), merged.kind, names, CPU)
    operations: dict[str, float] = {}  # per example
    seconds: dict[str, float] = {}
    for expert in merged.experts:
        model = models.models[expert.task]
        examples, _ = calibration_sets(merged, expert, model, settings, laboratory.work)
        indices = batch_indices(len(examples), 32, 0, expert.task, settings.seed)
        with FlopCounterMode(display=False) as counter:
            examples.loss(model, indices, settings).backward()
        operations[expert.task] = counter.get_total_flops() / len(indices)
        started = time.process_time()
        examples.loss(model, indices, settings).backward()
        seconds[expert.task] = (time.process_time() - started) / len(indices)
    num_experts = len(merged.experts)
    rows = []
    for name, chosen in variants.items():
        by_row = chosen.granularity == "row"
        numbers = sum(
            1 + base.tensors[n].shape[0] * (by_row and n in models.row_names) for n in names
        )
        batches = chosen.steps * chosen.batch_size
        rows.append(
            Cost(
                f"one merge of {num_experts}, {name}",
                num_experts * numbers,
                batches * sum(operations.values()) + chosen.steps * 4 * num_experts * size,
                batches * sum(seconds.values()),
            )
        )
    for expert in merged.experts:
        seen = TASKS[expert.task].train * Recipe().epochs
        numbers = size + sum(tensor.numel() for tensor in expert.head.tensors.values())
        rows.append(
            Cost(
                f"fine-tuning {expert.task}",
                numbers,
                seen * operations[expert.task],
                seen * seconds[expert.task],
            )
        )
    return rows
