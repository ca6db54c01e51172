"""Calibration examples of a task, encoded once, with the expert's own answers beside them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.errors import InvalidInput
from merging.experts.examples import Examples
from merging.experts.expert import Expert
from merging.kinds import ModelKind
from merging.learning.batches import (
    Encoded,
    answers,
    encode_examples,
    num_places,
    prove_batches,
    send,
)
from merging.learning.objectives import NEEDS_EXPERT, NEEDS_LABELS, SoftLabels, objective_loss
from merging.learning.state import numerics
from merging.safefile import load_tensors, save_tensors
from merging.serving import Encoder, assemble
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet

FEWEST_TO_HOLD_OUT = 10  # With fewer examples all of them are learned from.
LIKELIEST = 64  # Tokens whose probability by the expert is kept, at each place of a text.
BATCH = 64  # Examples in a pass without gradient.


@dataclass(frozen=True)
class CalibrationSet:
    """One side (learned from, or held out) of one task's calibration examples.

    Attributes:
        encoded: The inputs of its examples with their labels, not padded.
        soft: The expert's answers to all examples of the task, where the objective needs them, on the
            device of the models.
        places: First row of `soft` that belongs to each example, and how many, int64 [examples, 2].
    """

    kind: ModelKind
    encoder: Encoder
    encoded: Sequence[Encoded]
    soft: SoftLabels | None
    places: Tensor

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.encoded)

    def loss(self, model: Any, indices: Sequence[int], settings: MergeSettings) -> Tensor:
        """Mean loss of the examples at `indices`, a scalar with a graph."""
        return objective_loss(settings.objective, *self._answers(model, indices))

    @torch.no_grad()
    def losses(self, model: Any, settings: MergeSettings) -> Tensor:
        """Loss of every example, fp64 [examples]."""
        losses = torch.empty(len(self), dtype=torch.float64)
        for indices in _batches(self.encoded):
            logits, targets, soft = self._answers(model, indices)
            apart = []
            first = 0
            for count in self.places[indices, 1].tolist():
                own = slice(first, first + count)
                answer = None if soft is None else soft.take(own)
                apart.append(objective_loss(settings.objective, logits[own], targets[own], answer))
                first += count
            losses[indices] = torch.stack(apart).double().cpu()
        return losses

    def _answers(
        self, model: Any, indices: Sequence[int]
    ) -> tuple[Tensor, Tensor, SoftLabels | None]:
        """Logits, targets and the expert's answers of some examples, one row per place."""
        device = next(model.parameters()).device
        chosen = [self.encoded[i] for i in indices]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits, targets = answers(model, self.encoder, chosen, self.kind)
        soft = None
        if self.soft is not None:
            spans = [torch.arange(a, a + n) for a, n in self.places[list(indices)].tolist()]
            soft = self.soft.take(send(torch.cat(spans), device))
        return logits, targets, soft


def calibration_sets(
    experts: ExpertSet, expert: Expert, model: Any, settings: MergeSettings, work: Path
) -> tuple[CalibrationSet, CalibrationSet]:
    """What is learned from and what is held out of one expert's calibration examples.

    Args:
        experts: The base, and all experts.
        expert: One of them.
        model: Its task model, whatever its values are. The expert's own answers are kept on its device.
        settings: How many examples, how many of them held out, and for which objective.
        work: Folder for what is computed once.

    Raises:
        InvalidInput: There is no example that the objective can use.
        TaskError: The model cannot read one of them.
    """
    kind, examples = experts.kind, expert.split.calibration
    device = next(model.parameters()).device
    if settings.objective in NEEDS_LABELS or not kind.has_head:
        examples = examples.take(i for i, t in enumerate(examples.targets) if t is not None)
    examples = examples.sample(settings.calibration_size, settings.seed)
    if len(examples) == 0:
        raise InvalidInput(
            where=f"calibration examples of {expert.task}",
            expected=f"at least one that the objective {settings.objective!r} can use",
            found="none",
            remedy="Add labelled rows with split 'calibration'.",
        )
    encoder = Encoder(experts.base.directory, kind, model)
    encoded = encode_examples(encoder, examples, images=work / "images")
    prove_batches(model, encoder, encoded, kind)
    soft = None
    if settings.objective in NEEDS_EXPERT:
        soft = soft_labels(experts, expert, examples, encoder, encoded, work, device).to(device)
    counts = torch.tensor([num_places(one, kind) for one in encoded])
    places = torch.stack([counts.cumsum(0) - counts, counts], 1)
    held = round(len(examples) * settings.holdout) if len(examples) >= FEWEST_TO_HOLD_OUT else 0
    # Another seed than the one that chose the sample, or the two would rank alike.
    held_keys = set(examples.sample(held, settings.seed + 1).keys)
    sides = []
    for wanted in (False, True):
        chosen = [i for i, key in enumerate(examples.keys) if (key in held_keys) == wanted]
        side = CalibrationSet(kind, encoder, [encoded[i] for i in chosen], soft, places[chosen])
        sides.append(side)
    return sides[0], sides[1]


def soft_labels(
    experts: ExpertSet,
    expert: Expert,
    examples: Examples,
    encoder: Encoder,
    encoded: Sequence[Encoded],
    work: Path,
    device: torch.device,
) -> SoftLabels:
    """The expert's answers to its own examples, computed once and kept in `work`."""
    read = [(one.get("input_ids"), one["labels"]) for one in encoded]
    content = f"{expert.fingerprint}{examples.digest}{LIKELIEST}{read}{numerics(device)}"
    name = hashlib.sha256(content.encode()).hexdigest()
    path = work / "soft-labels" / f"{name}.safetensors"
    if not path.exists():
        tensors = {**experts.backbone(expert.task).tensors, **expert.head.tensors}
        model = assemble(expert.head.config, examples.kind, tensors).to(device)
        soft = _answer(model, encoder, encoded, examples.kind)
        save_tensors(path, {k: v for k, v in vars(soft).items() if v is not None})
    return SoftLabels(**load_tensors(path)[0])


@torch.no_grad()
def _answer(
    model: Any, encoder: Encoder, encoded: Sequence[Encoded], kind: ModelKind
) -> SoftLabels:
    kept: list[SoftLabels] = [SoftLabels(torch.empty(0))] * len(encoded)
    likeliest = None if kind.has_head else LIKELIEST
    for indices in _batches(encoded):
        logits, _ = answers(model, encoder, [encoded[i] for i in indices], kind)
        counts = [num_places(encoded[i], kind) for i in indices]
        for i, part in zip(indices, logits.split(counts), strict=True):
            kept[i] = SoftLabels.of(part, likeliest)
    tokens = [k.tokens for k in kept if k.tokens is not None]
    return SoftLabels(torch.cat([k.logs for k in kept]), torch.cat(tokens) if tokens else None)


def _batches(encoded: Sequence[Encoded]) -> list[list[int]]:
    """Indices of examples of like length, at most BATCH together."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].get("input_ids", ())))
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def batch_indices(count: int, batch_size: int, step: int, task: str, seed: int) -> list[int]:
    """Which examples a step takes: a new order every epoch, a function of its arguments alone."""
    size = min(batch_size, count)
    indices = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, count)
        indices.append(_order(count, epoch, task, seed)[place])
    return indices


@functools.lru_cache(maxsize=64)  # A task has one entry; each step asks for every place anew.
def _order(count: int, epoch: int, task: str, seed: int) -> list[int]:
    digest = hashlib.sha256(f"{seed}/{task}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randperm(count, generator=generator).tolist()
