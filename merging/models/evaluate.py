"""A model's answers on gate examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from merging.errors import InvalidInput
from merging.experts.examples import Examples
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.models.outcomes import Outcomes
from merging.serving import Encoder, assemble, class_scores, generate
from merging.vectors.backbone import Backbone


def evaluate(backbone: Backbone, head: Head, examples: Examples, device: torch.device) -> Outcomes:
    """Answers of one backbone with one head, example by example.

    Args:
        backbone: Of the base, of an expert, or of a merged model.
        head: The task's head.
        examples: Labelled examples, usually the gate's.
        device: Where the model runs.

    Raises:
        InvalidInput: An example without label.
        TaskError: The head does not fit the backbone.
    """
    if None in examples.targets:
        raise InvalidInput(
            where=f"examples of {head.task}",
            expected="a label on every example that is evaluated",
            found="unlabelled ones",
            remedy="Leave them out or label them.",
        )
    answers = LoadedModel(backbone, head, examples.kind, device).answer(examples.inputs)
    targets: tuple[Any, ...] = examples.targets
    return Outcomes(examples.keys, answers, targets)


class LoadedModel:
    """One backbone with one head on a device, ready to answer."""

    def __init__(
        self, backbone: Backbone, head: Head, kind: ModelKind, device: torch.device
    ) -> None:
        tensors = {**backbone.tensors, **head.tensors}
        self.model = assemble(head.config, kind, tensors, head.generation).to(device)
        self.encoder = Encoder(backbone.reader, kind, self.model)
        self.kind, self.device = kind, device

    def answer(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Class index, or generated text, of every input."""
        if not self.kind.has_head:
            return tuple(generate(self.model, self.encoder, inputs, self.device))
        return tuple(
            class_scores(self.model, self.encoder, inputs, self.device).argmax(-1).tolist()
        )


def time_answers(
    models: Sequence[Backbone],
    head: Head,
    inputs: Sequence[Any],
    kind: ModelKind,
    device: torch.device,
    *,
    repeats: int = 9,
) -> tuple[list[float], ...]:
    """Seconds of each model for all inputs, the models taking turns so that noise hits them alike.

    Args:
        models: Their backbones.
        head: The task's head, the same for all.
        inputs: What each model answers at each turn.
        kind: The kind of model.
        device: Where they run.
        repeats: Turns of each model.
    """
    loaded = [LoadedModel(model, head, kind, device) for model in models]
    seconds: tuple[list[float], ...] = tuple([] for _ in models)
    for _ in range(repeats):
        for model, times in zip(loaded, seconds, strict=True):
            start = time.perf_counter()
            model.answer(inputs)
            times.append(time.perf_counter() - start)
    return seconds
