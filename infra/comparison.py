"""Two merged models set against each other: experts, scores and coefficients."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from infra.history import find_recorded, gate_scores
from infra.queue import MergeQueue
from infra.storage.manifest import Manifest, download_part
from infra.storage.promotions import Recorded
from merging.models.coefficients import Coefficients
from merging.models.folder import MergedFolder


def compare(queue: MergeQueue, a: int, b: int) -> list[tuple[str, str, str, str]]:
    """Rows of (task, expert, score, mean coefficient) that set two versions against each other."""
    entries = queue.promotions.entries()
    sides = [_side(queue, find_recorded(queue, number, entries)) for number in (a, b)]
    tasks = list(dict.fromkeys(name for side in sides for name in side))
    rows = []
    for name in tasks:
        cells = [side.get(name, ("–", "–", "–")) for side in sides]
        changes = [x if x == y else f"{x} → {y}" for x, y in zip(*cells, strict=True)]
        rows.append((name, changes[0], changes[1], changes[2]))
    return rows


def _side(queue: MergeQueue, model: Recorded) -> dict[str, tuple[str, str, str]]:
    manifest = Manifest.read(queue.store, model.location, model.manifest_sha256)
    scores = gate_scores(queue, model)
    with tempfile.TemporaryDirectory() as folder:
        file = MergedFolder(Path(folder)).coefficients
        download_part(queue.store, model.location, manifest, file.name, Path(folder))
        coefficients = Coefficients.load(file)
    return {
        e.task: (
            e.ref,
            f"{scores[e.task]:.3f}" if e.task in scores else "–",
            f"{_mean(coefficients.column(e.task)):.3f}",
        )
        for e in manifest.experts
    }


def _mean(column: Mapping[str, Tensor]) -> float:
    return float(torch.cat([value.reshape(-1) for value in column.values()]).mean())
