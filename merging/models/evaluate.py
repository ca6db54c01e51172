"""A model's answers on gate examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.errors import InvalidInput
from merging.experts.adapters import is_adapter
from merging.experts.checkpoint import Checkpoint
from merging.experts.examples import Examples, ModelKind
from merging.experts.heads import Head
from merging.models.outcomes import Outcomes
from merging.serving import Encoder, assemble, class_scores, generate
from merging.vectors.deltas import backbone_names, dense_delta, open_adapter


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
    answers = LoadedModel(model, head, examples.kind, device, base=base).answer(examples.inputs)
    targets: tuple[Any, ...] = examples.targets
    return Outcomes(examples.keys, answers, targets)


class LoadedModel:
    """One backbone with one head on a device, ready to answer.

    Args:
        model: Directory of a backbone: the base, a merged model's `model/`, or an expert.
        head: The task's head.
        kind: The kind of model.
        device: Where it runs.
        base: The base directory, whose tokenizer is used where `model` has none.
    """

    def __init__(
        self,
        model: Path,
        head: Head,
        kind: ModelKind,
        device: torch.device,
        *,
        base: Path | None = None,
    ) -> None:
        backbone = backbone_tensors(model, head, kind, base)
        self.model = assemble(head.config, kind, {**backbone, **head.tensors}).to(device)
        has_files = any(model.glob("tokenizer*")) or any(model.glob("preprocessor_config.json"))
        self.encoder = Encoder(model if has_files or base is None else base, kind, head.config)
        self.kind, self.device = kind, device

    def answer(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Class index, or generated text, of every input."""
        if self.kind == "generator":
            return tuple(generate(self.model, self.encoder, inputs, self.device))
        return tuple(
            class_scores(self.model, self.encoder, inputs, self.device).argmax(-1).tolist()
        )


def time_answers(
    models: Sequence[Path],
    head: Head,
    inputs: Sequence[Any],
    kind: ModelKind,
    device: torch.device,
    *,
    base: Path | None = None,
    repeats: int = 9,
) -> tuple[list[float], ...]:
    """Seconds of each model for all inputs, the models taking turns so that noise hits them alike.

    Args:
        models: Directories of backbones; `head`, `kind`, `device` and `base` as of `LoadedModel`.
        head: The task's head.
        inputs: What each model answers at each turn.
        kind: The kind of model.
        device: Where they run.
        base: The base directory.
        repeats: Turns of each model.
    """
    loaded = [LoadedModel(model, head, kind, device, base=base) for model in models]
    seconds: tuple[list[float], ...] = tuple([] for _ in models)
    for _ in range(repeats):
        for model, found in zip(loaded, seconds, strict=True):
            start = time.perf_counter()
            model.answer(inputs)
            found.append(time.perf_counter() - start)
    return seconds


def backbone_tensors(
    directory: Path, head: Head, kind: ModelKind, base: Path | None
) -> dict[str, Tensor]:
    """The backbone of a directory by canonical name, adapters added to their base.

    Raises:
        InvalidInput: An adapter without base.
    """
    if not is_adapter(directory):
        checkpoint = Checkpoint.open(directory)
        return {name: checkpoint.read(name) for name in backbone_names(checkpoint, kind)}
    if base is None:
        raise InvalidInput(
            where=str(directory),
            expected="the base of an adapter",
            found="none",
            remedy="Give base=.",
        )
    source = Checkpoint.open(base)
    adapter = open_adapter(directory, source, head, kind)
    tensors = {name: source.read(name) for name in backbone_names(source, kind)}
    for name, tensor in tensors.items():
        delta = dense_delta(adapter.delta(name), source, name)
        if delta is not None:
            tensors[name] = tensor.float() + delta
    return tensors
