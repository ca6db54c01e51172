"""An expert as this project builds it: base + 1·τ under its own head, with the base's reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from merging.experts.examples import Examples
from merging.experts.expert import Expert
from merging.experts.rows import Input
from merging.learning.batches import (
    Encoded,
    answers,
    encode_examples,
    num_places,
    prove_batches,
)
from merging.learning.objectives import objective_loss
from merging.learning.taskmodels import TaskModels
from merging.serving import Encoder, class_scores, generate
from merging.vectors.deltas import dense_delta
from merging.vectors.expert_set import ExpertSet

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ours:
    """The task model that learning, evaluation and serving make of one expert.

    Attributes:
        alone: The expert with its base, and no other.
        models: The expert's task model; its merged parameters are the expert's.
        encoder: The base's.
    """

    alone: ExpertSet
    models: TaskModels
    encoder: Encoder

    @classmethod
    @torch.no_grad()
    def of(cls, alone: ExpertSet, some: Examples) -> Ours:
        """Builds it.

        Args:
            alone: The expert with its base.
            some: An example, which the base answers before the task vector is added: learning, too,
                changes a model that has already answered.
        """
        (expert,), names = alone.experts, alone.names
        models = TaskModels(alone.base, [expert.head], alone.kind, names, CPU)
        encoder = Encoder(alone.base.directory, alone.kind, models.models[expert.task])
        ours = cls(alone, models, encoder)
        ours.logits(ours.encode(some))
        for name, parameter in ours.models.merged.items():
            delta = dense_delta(alone.sources[0].delta(name), alone.base, name)
            if delta is not None:
                parameter.add_(delta)
        return ours

    @property
    def expert(self) -> Expert:
        """The expert."""
        return self.alone.experts[0]

    @property
    def model(self) -> Any:
        """Its task model."""
        return self.models.models[self.expert.task]

    @property
    def positions(self) -> int | None:
        """Most tokens that the model has room for; None where the tokenizer's own limit is lower."""
        if (
            self.alone.kind.reads_images
            or self.encoder.limit >= self.encoder.processor.model_max_length
        ):
            return None
        return self.encoder.limit

    def encode(self, some: Examples) -> list[Encoded]:
        """Examples as learning encodes them."""
        return encode_examples(self.encoder, some)

    @torch.no_grad()
    def logits(self, encoded: Sequence[Encoded]) -> list[Tensor]:
        """Learning's logits of examples that come together, fp32 [places, classes] of each."""
        kind = self.alone.kind
        prove_batches(self.model, self.encoder, encoded, kind)
        logits, _ = answers(self.model, self.encoder, encoded, kind)
        return list(logits.split([num_places(one, kind) for one in encoded]))

    def scores(self, values: Sequence[Input]) -> list[Tensor]:
        """Serving's class logits for inputs that come together, fp32 [1, classes] of each."""
        return list(class_scores(self.model, self.encoder, values, CPU).split(1))

    def texts(self, values: Sequence[Input]) -> list[str]:
        """Serving's greedy answers to inputs that come together."""
        return generate(self.model, self.encoder, values, CPU)

    def learn(self, encoded: Sequence[Encoded]) -> tuple[int, bool]:
        """Two forward and backward passes of learning, each gradient freed as soon as it is final.

        The second finds an architecture that keeps what the first one made of its parameters.

        Returns:
            How many merged tensors got a gradient that is not zero, and whether all were finite.
        """
        moved, finite = 0, True

        def look(parameter: Tensor) -> None:
            nonlocal moved, finite
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                finite = finite and bool(torch.isfinite(gradient).all())
                moved += bool(gradient.count_nonzero())

        hooks = [
            parameter.register_post_accumulate_grad_hook(look)
            for parameter in self.models.merged.values()
        ]
        self.model.train()  # What was kept of earlier passes is forgotten.
        self.model.eval()
        for _ in range(2):
            found = answers(self.model, self.encoder, encoded, self.alone.kind)
            objective_loss("labels", *found, None).backward()
        for hook in hooks:
            hook.remove()
        return moved, finite
