"""The streamed gradient is the gradient: compared with plain autograd in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import BertConfig

from merging.checkpoint import Checkpoint
from merging.stream import StreamedMerge
from merging.vectors import TaskVectors, build_vectors
from merging.weights import TensorWeights


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.norm = nn.LayerNorm(7)
        self.second = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(x))))


class UsedTwice(nn.Module):
    """One weight in two places of the graph, under two names (tied) and under one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(torch.tanh(self.mix(self.embed(x)))))


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(1)


CASES: list[tuple[type[nn.Module], Callable[[], Tensor]]] = [
    (Plain, lambda: torch.randn(9, 5, dtype=torch.float64)),
    (UsedTwice, lambda: torch.randint(0, 11, (4, 3))),
    (Convolution, lambda: torch.randn(3, 2, 5, 5, dtype=torch.float64)),
]


class Recorder(TensorWeights):
    """Weights that keep the gradient of w instead of following it."""

    def update(self, inner: Tensor, step: int) -> None:
        w = self.start.atanh()
        self.gradient = inner * (1 - w.tanh().square())


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("module", "sample"), CASES)
def test_streamed_gradient_equals_autograd(
    module: type[nn.Module], sample: Callable[[], Tensor], rows: bool, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    num_experts = 4
    model = module().double()
    base = {n: p.detach().float() for n, p in model.named_parameters()}
    deltas = {n: torch.randn(num_experts, *t.shape) * 0.1 for n, t in base.items()}
    vectors = write_vectors(tmp_path, base, deltas)
    weights = {}
    for name, tensor in base.items():
        shape = (num_experts, tensor.shape[0]) if rows and tensor.ndim > 1 else (num_experts,)
        start = torch.rand(shape, dtype=torch.float64) - 0.4
        weights[name] = Recorder(start, tanh=True, learning_rate=0.1)
    batches = [sample() for _ in range(3)]

    merge = StreamedMerge(dict(model.named_parameters()), vectors, weights)
    for number, batch in enumerate(batches):
        merge.last_backward = number == len(batches) - 1
        model(batch).square().mean().backward()
    merge.finish_step()

    w = {n: weights[n].start.atanh().requires_grad_() for n in base}
    merged = {}
    for name, tensor in base.items():
        c = w[name].tanh()
        c = c.view(*c.shape, *[1] * (tensor.ndim + 1 - c.ndim))
        merged[name] = tensor.double() + (c * deltas[name].double()).sum(0)
    sum(functional_call(model, merged, (b,)).square().mean() for b in batches).backward()
    for name in base:
        torch.testing.assert_close(weights[name].gradient, w[name].grad, rtol=1e-5, atol=1e-12)


class Given:
    """A source of task vectors that are at hand."""

    def __init__(self, deltas: dict[str, Tensor]) -> None:
        self.delta = deltas.get


def write_vectors(
    folder: Path, base: dict[str, Tensor], deltas: dict[str, Tensor], storage: str = "fp32"
) -> TaskVectors:
    directory = folder / "base"
    BertConfig().save_pretrained(directory)
    save_file(base, directory / "model.safetensors")
    count = next(iter(deltas.values())).shape[0]
    sources = [Given({n: d[i] for n, d in deltas.items()}) for i in range(count)]
    path = folder / f"vectors-{storage}.safetensors"
    build_vectors(path, Checkpoint.open(directory), sources, list(base), storage)
    return TaskVectors(path)
