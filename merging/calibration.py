"""Calibration examples as batches: encoded once, with the expert's own answers beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.errors import InvalidInput
from merging.evaluate import backbone_tensors
from merging.examples import Examples, ModelKind
from merging.experts import Expert
from merging.objectives import UNLABELLED, objective_loss
from merging.safefile import load_tensors, save_tensors
from merging.serving import Encoder, assemble, class_scores
from merging.settings import MergeSettings

FEWEST_TO_HOLD_OUT = 10  # with fewer examples all of them are learned from


@dataclass(frozen=True)
class CalibrationSet:
    """One side (learned from, or held out) of one task's calibration examples.

    Attributes:
        rows: Encoded inputs, not padded.
        targets: int64 [examples].
        soft: Log-probabilities of the expert, fp32 [examples, classes], where they are needed.
    """

    rows: Sequence[dict[str, Any]]
    targets: Tensor
    soft: Tensor | None
    encoder: Encoder

    def __len__(self) -> int:
        return len(self.rows)

    def loss(self, model: Any, indices: Sequence[int], settings: MergeSettings) -> Tensor:
        """Mean loss of the examples at `indices`, a scalar with a graph."""
        device = next(model.parameters()).device
        batch = self.encoder.collate([self.rows[i] for i in indices])
        logits = model(**{name: t.to(device) for name, t in batch.items()}).logits
        soft = None if self.soft is None else self.soft[indices].to(device)
        targets = self.targets[indices].to(device)
        return objective_loss(settings.objective, logits, targets, soft)

    @torch.no_grad()
    def mean_loss(self, model: Any, settings: MergeSettings) -> float:
        """Mean loss of all examples."""
        total = 0.0
        for indices, _ in self.encoder.batches(self.rows, 64):
            total += float(self.loss(model, indices, settings)) * len(indices)
        return total / len(self)


def calibration_sets(
    base: Path, expert: Expert, kind: ModelKind, settings: MergeSettings, work: Path
) -> tuple[CalibrationSet, CalibrationSet]:
    """What is learned from and what is held out of one expert's calibration examples.

    Raises:
        InvalidInput: There is no example that the objective can use.
    """
    examples = expert.split.calibration.sample(settings.calibration_size, settings.seed)
    if settings.objective == "labels":
        examples = examples.take(i for i, t in enumerate(examples.targets) if t is not None)
    if len(examples) == 0:
        raise InvalidInput(
            where=f"calibration examples of {expert.task}",
            expected=f"at least one that the objective {settings.objective!r} can use",
            found="none",
            remedy="Add labelled rows with split 'calibration'.",
        )
    encoder = Encoder(base, kind, expert.head.config)
    rows = encoder.encode(examples.inputs)
    targets = torch.tensor([UNLABELLED if t is None else int(t) for t in examples.targets])
    soft = None
    if settings.objective in ("experts", "both"):
        soft = soft_labels(base, expert, kind, examples, work)
    count = round(len(examples) * settings.holdout) if len(examples) >= FEWEST_TO_HOLD_OUT else 0
    # Another seed than the one that chose the sample, or the two would rank alike.
    held_keys = set(examples.sample(count, settings.seed + 1).keys)

    def side(held: bool) -> CalibrationSet:
        chosen = [i for i, key in enumerate(examples.keys) if (key in held_keys) == held]
        return CalibrationSet(
            [rows[i] for i in chosen],
            targets[chosen],
            None if soft is None else soft[chosen],
            encoder,
        )

    return side(held=False), side(held=True)


def soft_labels(
    base: Path, expert: Expert, kind: ModelKind, examples: Examples, work: Path
) -> Tensor:
    """The expert's log-probabilities, fp32 [examples, classes]; computed once, kept in `work`."""
    name = hashlib.sha256(f"{expert.digest}{examples.digest}".encode()).hexdigest()
    path = work / "soft-labels" / f"{name}.safetensors"
    if not path.exists():
        backbone = backbone_tensors(expert.directory, expert.head, kind, base)
        model = assemble(expert.head.config, kind, {**backbone, **expert.head.tensors})
        encoder = Encoder(base, kind, expert.head.config)
        scores = class_scores(model, encoder, examples.inputs, torch.device("cpu"))
        save_tensors(path, {"soft": scores.log_softmax(-1)})
    return load_tensors(path)[0]["soft"]


def batch_indices(count: int, batch_size: int, step: int, task: str, seed: int) -> list[int]:
    """Which examples a step takes: a new order every epoch, a function of its arguments alone."""
    size = min(batch_size, count)
    indices = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, count)
        indices.append(_order(count, epoch, task, seed)[place])
    return indices


def _order(count: int, epoch: int, task: str, seed: int) -> list[int]:
    digest = hashlib.sha256(f"{seed}/{task}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randperm(count, generator=generator).tolist()
