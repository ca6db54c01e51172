"""A training-free merge from its name to a model directory.

delta = baseline(experts, "ties")
scale = choose_scale(experts, delta, device=torch.device("cpu"))
write_baseline(experts, delta, scale, Path("out"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from merging.baselines.linear_systems import mats, regmean
from merging.baselines.training_free import METHODS
from merging.errors import InvalidInput
from merging.learning.taskmodels import TaskModels
from merging.models.materialise import write_model
from merging.serving import Encoder, class_scores, generate
from merging.vectors.expert_set import ExpertSet

ALL_METHODS = {**METHODS, "regmean": regmean, "mats": mats}
SCALES = tuple(round(0.1 * i, 1) for i in range(1, 16))
UNSCALED = ("average", "regmean", "mats")  # Methods that give a model and not a direction.


def baseline(experts: ExpertSet, method: str) -> dict[str, Tensor]:
    """What a training-free method adds to the base, fp32 by canonical tensor name.

    Raises:
        InvalidInput: There is no such method.
    """
    if method not in ALL_METHODS:
        raise InvalidInput(
            where="baseline",
            expected=f"one of {', '.join(ALL_METHODS)}",
            found=method,
            remedy="Choose one of them.",
        )
    return ALL_METHODS[method](experts)


def choose_scale(
    experts: ExpertSet,
    delta: Mapping[str, Tensor],
    *,
    scales: Sequence[float] = SCALES,
    examples: int = 128,
    device: torch.device,
) -> float:
    """The λ of base + λ · delta with the best mean accuracy on labelled calibration examples."""
    base, kind = experts.base, experts.kind
    models = TaskModels(base, list(experts.heads.values()), kind, list(delta), device)
    means = []
    for scale in scales:
        with torch.no_grad():
            for name, parameter in models.merged.items():
                parameter.copy_(base.read(name).float() + scale * delta[name])
        accuracies = []
        for expert in experts.experts:
            chosen = expert.split.calibration.sample(examples, 0)
            chosen = chosen.take(i for i, t in enumerate(chosen.targets) if t is not None)
            model = models.models[expert.task]
            encoder = Encoder(base.directory, kind, model)
            if not kind.has_head:
                texts = generate(model, encoder, chosen.inputs, device)
                right = [a == str(b).strip() for a, b in zip(texts, chosen.targets, strict=True)]
                accuracies.append(sum(right) / len(right))
            else:
                answer = class_scores(model, encoder, chosen.inputs, device).argmax(-1)
                target = torch.tensor([int(t or 0) for t in chosen.targets])
                accuracies.append(float((answer == target).float().mean()))
        means.append(sum(accuracies) / len(accuracies))
    return scales[means.index(max(means))]


def write_baseline(
    experts: ExpertSet, delta: Mapping[str, Tensor], scale: float, out: Path
) -> None:
    """Writes `model/` and `heads/` of base + scale · delta."""

    def merged(name: str) -> Tensor:
        original = experts.base.read(name)
        if name not in delta:
            return original
        return (original.float() + scale * delta[name]).to(original.dtype)

    write_model(experts, merged, experts.heads, out)
