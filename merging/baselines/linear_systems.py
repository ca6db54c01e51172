"""Merges that match every expert's layer outputs: RegMean and MaTS.

For a linear layer with weight W [outputs, inputs] both look for the W that solves

    Σi Bi W Ai = Σi Bi Wi Ai,

Ai the second moment of the layer's inputs under expert i and Bi of the gradients of its outputs.
RegMean (Jin et al., 2023) takes Bi = 1 and inverts; MaTS (Tam, Bansal, Raffel, arXiv 2312.04339)
takes the Kronecker-factored Fisher and goes some steps of conjugate gradient from the average. What
is no linear layer is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from merging.experts.expert import Expert
from merging.learning.batches import answers, encode_examples, prove_batches
from merging.learning.objectives import objective_loss
from merging.serving import Encoder, assemble
from merging.vectors.expert_set import ExpertSet

OFF_DIAGONAL = 0.9  # RegMean keeps this share of what lies off the diagonal of a Gram matrix.
CG_STEPS = 50  # Steps of conjugate gradient that MaTS goes.
BATCH = 16  # Examples in a pass that collects moments.


@dataclass
class Moments:
    """Second moments at a linear layer: of inputs [inputs, inputs], of gradients [outputs, outputs].

    Both are fp64 and divided by `count`, the number of vectors that went in.
    """

    inputs: Tensor
    gradients: Tensor
    count: int = field(default=0)


def regmean(experts: ExpertSet, examples: int = 128) -> dict[str, Tensor]:
    """RegMean; what to add to the base, by tensor name."""
    moments = [layer_moments(experts, expert, examples) for expert in experts.experts]
    return _solve_all(experts, moments, regmean_layer)


def mats(experts: ExpertSet, examples: int = 128) -> dict[str, Tensor]:
    """MaTS with Kronecker-factored Fisher matrices; what to add to the base, by tensor name."""
    moments = [layer_moments(experts, expert, examples) for expert in experts.experts]
    return _solve_all(experts, moments, mats_layer)


def regmean_layer(deltas: Tensor, moments: Sequence[Moments]) -> Tensor:
    """Closed form for one layer, [experts, outputs, inputs] to [outputs, inputs]."""
    grams = [_shrunk(m.inputs) for m in moments]
    right = torch.stack([d.double() @ g for d, g in zip(deltas, grams, strict=True)]).sum(0)
    total = torch.stack(grams).sum(0)
    total += 1e-6 * total.diagonal().mean() * torch.eye(len(total), dtype=torch.float64)
    return torch.linalg.solve(total, right, left=False).float()


def mats_layer(deltas: Tensor, moments: Sequence[Moments], steps: int = CG_STEPS) -> Tensor:
    """Conjugate gradient for one layer from the average, [experts, outputs, inputs] to one."""

    def apply(weights: Sequence[Tensor]) -> Tensor:
        parts = [m.gradients @ w @ m.inputs for w, m in zip(weights, moments, strict=True)]
        return torch.stack(parts).sum(0)

    deltas = deltas.double()
    target = apply(list(deltas))
    return conjugate_gradient(
        lambda w: apply([w] * len(moments)), target, deltas.mean(0), steps
    ).float()


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor], target: Tensor, start: Tensor, steps: int
) -> Tensor:
    """An approximate solution of operator(x) = target for a symmetric, semi-definite operator."""
    solution = start.clone()
    residual = target - operator(solution)
    direction = residual.clone()
    size = residual.square().sum()
    first = size.clone()
    for _ in range(steps):
        if size <= 1e-20 * first or size == 0:
            break
        image = operator(direction)
        along = (direction * image).sum()
        if along <= 0:  # a direction that no expert sees
            break
        solution += size / along * direction
        residual -= size / along * image
        before, size = size, residual.square().sum()
        direction = residual + size / before * direction
    return solution


def layer_moments(experts: ExpertSet, expert: Expert, examples: int) -> dict[str, Moments]:
    """Moments of every linear layer of one expert on its calibration inputs, by weight name.

    The gradients are those of cross-entropy to the expert's own answers.
    """
    backbone = experts.backbone(expert.task)
    tensors = {**backbone.tensors, **expert.head.tensors}
    model = assemble(expert.head.config, experts.kind, tensors)
    encoder = Encoder(experts.base.directory, experts.kind, model)
    chosen = expert.split.calibration
    if not experts.kind.has_head:
        chosen = chosen.take(i for i, t in enumerate(chosen.targets) if t is not None)
    chosen = chosen.sample(examples, 0)
    encoded = encode_examples(encoder, chosen)
    prove_batches(model, encoder, encoded, experts.kind)
    layout = experts.layouts[experts.tasks.index(expert.task)]
    moments: dict[str, Moments] = {}
    with _watched(model, layout.parameters, moments):
        for start in range(0, len(encoded), BATCH):
            some = encoded[start : start + BATCH]
            logits, _ = answers(model, encoder, some, experts.kind)
            own = logits.detach().argmax(-1)
            objective_loss("labels", logits, own, None).backward()
            model.zero_grad()
    for moment in moments.values():
        moment.inputs /= moment.count
        moment.gradients /= moment.count
    return moments


@contextmanager
def _watched(
    model: nn.Module, parameters: Mapping[str, Sequence[str]], moments: dict[str, Moments]
) -> Iterator[None]:
    """Adds up inputs and output gradients of all linear layers while it is open."""
    canonical = {path: name for name, paths in parameters.items() for path in paths}
    handles = []
    for path, module in model.named_modules():
        name = canonical.get(f"{path}.weight")
        if name is None or not isinstance(module, nn.Linear):
            continue
        moment = moments[name] = Moments(
            torch.zeros(module.in_features, module.in_features, dtype=torch.float64),
            torch.zeros(module.out_features, module.out_features, dtype=torch.float64),
        )

        def keep_inputs(_: Any, inputs: tuple[Tensor, ...], moment: Moments = moment) -> None:
            flat = inputs[0].detach().flatten(0, -2)
            moment.inputs += flat.t() @ flat
            moment.count += len(flat)

        def keep_gradients(
            _: Any, __: Any, gradients: tuple[Tensor, ...], moment: Moments = moment
        ) -> None:
            flat = gradients[0].detach().flatten(0, -2)
            moment.gradients += flat.t() @ flat

        handles.append(module.register_forward_pre_hook(keep_inputs))
        handles.append(module.register_full_backward_hook(keep_gradients))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _solve_all(
    experts: ExpertSet,
    moments: Sequence[dict[str, Moments]],
    layer: Callable[[Tensor, Sequence[Moments]], Tensor],
) -> dict[str, Tensor]:
    total = {}
    for name, stack in experts.stacks():
        known = [m[name] for m in moments if name in m]
        total[name] = layer(stack, known) if len(known) == len(stack) else stack.mean(0)
    return total


def _shrunk(gram: Tensor) -> Tensor:
    return OFF_DIAGONAL * gram + (1 - OFF_DIAGONAL) * torch.diag(gram.diagonal())
