"""A model's answers on gate examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.checkpoint import Checkpoint
from merging.deltas import backbone_names
from merging.errors import InvalidInput
from merging.examples import Examples, ModelKind
from merging.experts import Expert
from merging.heads import Head
from merging.outcomes import Outcomes
from merging.serving import Encoder, assemble, class_scores, generate


def evaluate(
    model: Path,
    head: Head | Path,
    examples: Examples,
    device: torch.device,
    *,
    base: Path | None = None,
) -> Outcomes:
    """Answers of one backbone with one head, example by example.

    Args:
        model: Directory of a backbone: the base, a merged model's `model/`, or an expert.
        head: The task's head, or its folder.
        examples: Labelled examples, usually the gate's.
        device: Where the model runs.
        base: The base directory, whose tokenizer is used where `model` has none.

    Raises:
        InvalidInput: An example without label, or a head that does not fit the backbone.
    """
    if isinstance(head, Path):
        head = Head.load(head, head.name)
    if None in examples.targets:
        raise InvalidInput(
            where=f"examples of {head.task}",
            expected="a label on every example that is evaluated",
            found="unlabelled ones",
            remedy="Leave them out or label them.",
        )
    backbone = backbone_tensors(Checkpoint.open(model), examples.kind)
    task_model = assemble(head.config, examples.kind, {**backbone, **head.tensors}).to(device)
    has_files = any(model.glob("tokenizer*")) or any(model.glob("preprocessor_config.json"))
    encoder = Encoder(model if has_files or base is None else base, examples.kind, head.config)
    predicted: tuple[Any, ...]
    if examples.kind == "generator":
        predicted = tuple(generate(task_model, encoder, examples.inputs, device))
    else:
        scores = class_scores(task_model, encoder, examples.inputs, device)
        predicted = tuple(scores.argmax(-1).tolist())
    targets: tuple[Any, ...] = examples.targets
    return Outcomes(examples.keys, predicted, targets)


def backbone_tensors(checkpoint: Checkpoint, kind: ModelKind) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint without its head, by canonical name."""
    return {name: checkpoint.read(name) for name in backbone_names(checkpoint, kind)}


def expert_model(base: Checkpoint, expert: Expert, kind: ModelKind) -> Any:
    """The expert's own task model, on the CPU."""
    tensors = dict(backbone_tensors(base, kind))
    tensors.update(backbone_tensors(Checkpoint.open(expert.directory), kind))
    return assemble(expert.head.config, kind, {**tensors, **expert.head.tensors})
