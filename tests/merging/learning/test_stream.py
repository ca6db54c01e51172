"""The streamed gradient is the gradient: compared with plain autograd in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import BertConfig

from merging.errors import NonFinite
from merging.experts.checkpoint import Checkpoint
from merging.learning.adam import BETAS
from merging.learning.merge import Merge
from merging.learning.resident import ResidentMerge
from merging.learning.stream import StreamedMerge
from merging.learning.weights import TensorWeights
from merging.vectors.feed import StagedFeed
from merging.vectors.mapped import TaskVectors, build_vectors


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


class Looked(nn.Module):
    """An embedding that nothing else uses, with a row that is never asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embed(x)))


class Padded(Looked):
    """An embedding of which a batch asks for nothing but padding, so that no row has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6, padding_idx=0)


class LookedAndRead(Looked):
    """An embedding that is looked up and, in the same pass, multiplied with as a whole."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.embed(x)
        return found @ self.embed.weight.t() + self.out(found).sum(-1, keepdim=True)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(1)


CASES: list[tuple[type[nn.Module], Callable[[], Tensor]]] = [
    (Plain, lambda: torch.randn(9, 5, dtype=torch.float64)),
    (UsedTwice, lambda: torch.randint(0, 11, (4, 3))),
    (Looked, lambda: torch.randint(0, 11, (4, 3))),
    (Padded, lambda: torch.zeros(4, 3, dtype=torch.int64)),
    (LookedAndRead, lambda: torch.randint(0, 11, (4, 3))),
    (Convolution, lambda: torch.randn(3, 2, 5, 5, dtype=torch.float64)),
]


CPU = torch.device("cpu")
Opened = Callable[..., Merge]


def streamed(parameters: Any, vectors: TaskVectors, weights: Any, lookups: Any) -> Merge:
    return StreamedMerge(parameters, vectors, weights, lookups)


def staged(parameters: Any, vectors: TaskVectors, weights: Any, lookups: Any) -> Merge:
    return StreamedMerge(parameters, vectors, weights, lookups, StagedFeed(vectors, CPU))


def resident(parameters: Any, vectors: TaskVectors, weights: Any, lookups: Any) -> Merge:
    assert lookups is not None  # they are tensors like any other
    return ResidentMerge(parameters, vectors, weights, CPU)


def learned_gradient(weights: TensorWeights) -> Tensor:
    """∂L/∂w of a first step, from the mean that Adam kept of it."""
    adam = weights.row_adam if weights.rows_learn else weights.adam
    assert adam is not None
    return adam.mean / (1 - BETAS[0])


@pytest.mark.parametrize("opened", [streamed, staged, resident])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("module", "sample"), CASES)
def test_streamed_gradient_equals_autograd(
    module: type[nn.Module],
    sample: Callable[[], Tensor],
    rows: bool,
    opened: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("merging.vectors.mapped.TILE_BYTES", 4096)
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
        weights[name] = TensorWeights(start, tanh=True, learning_rate=0.1)
        weights[name].rows_learn = start.ndim == 2
    lookups = {"embed.weight": [model.embed]} if issubclass(module, Looked) and not rows else {}
    batches = [sample() for _ in range(3)]

    w = {n: weights[n].start.atanh().requires_grad_() for n in base}
    merged = {}
    for name, tensor in base.items():
        c = w[name].tanh()
        c = c.view(*c.shape, *[1] * (tensor.ndim + 1 - c.ndim))
        merged[name] = tensor.double() + (c * deltas[name].double()).sum(0)
    sum(functional_call(model, merged, (b,)).square().mean() for b in batches).backward()

    merge = opened(dict(model.named_parameters()), vectors, weights, lookups)
    merge.step = 1
    for number, batch in enumerate(batches):
        merge.last_backward = number == len(batches) - 1
        model(batch).square().mean().backward()
    merge.finish_step()

    for name in base:
        torch.testing.assert_close(
            learned_gradient(weights[name]), w[name].grad, rtol=1e-5, atol=1e-12
        )


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


def test_rows_of_an_embedding_are_written_when_they_are_read(tmp_path: Path) -> None:
    model = Looked()
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    deltas = {n: torch.randn(2, *t.shape) for n, t in base.items()}
    vectors = write_vectors(tmp_path, base, deltas)
    weights = {n: TensorWeights(torch.zeros(2), tanh=True, learning_rate=0.1) for n in base}
    merge = StreamedMerge(
        dict(model.named_parameters()), vectors, weights, {"embed.weight": [model.embed]}
    )
    for step in (1, 2, 3):
        merge.step, merge.last_backward = step, True
        model(torch.randint(0, 11, (4, 3))).square().mean().backward()
        merge.finish_step()
    asked = torch.tensor([1, 7])
    model(asked)
    c = weights["embed.weight"].coefficients()
    assert bool((c != 0).all())
    expected = base["embed.weight"] + torch.einsum("k,krc->rc", c, deltas["embed.weight"])
    rows = dict(model.named_parameters())["embed.weight"]
    torch.testing.assert_close(rows[asked], expected[asked])
    assert not torch.allclose(rows[11], expected[11])  # nobody has asked for it
    torch.testing.assert_close(model.embed.weight, expected)  # and whoever reads all, finds all


@pytest.mark.parametrize(("storage", "tolerance"), [("bf16", 5e-3), ("int8", 1e-2)])
def test_compact_storage_is_near(tmp_path: Path, storage: str, tolerance: float) -> None:
    torch.manual_seed(3)
    base = {"w": torch.randn(40, 30), "b": torch.randn(7)}
    deltas = {n: torch.randn(3, *t.shape) for n, t in base.items()}
    whole = write_vectors(tmp_path, base, deltas)
    compact = write_vectors(tmp_path, base, deltas, storage)
    assert compact.nbytes < whole.nbytes
    for name, tensor in base.items():
        for rows in {False, tensor.ndim > 1}:
            gradient = torch.randn_like(tensor)
            a = whole.stack(name).inner(gradient, rows=rows)
            b = compact.stack(name).inner(gradient, rows=rows)
            assert float((a - b).norm() / a.norm()) < tolerance * 5
            out_a, out_b = torch.zeros_like(tensor), torch.zeros_like(tensor)
            c = torch.rand(a.shape)
            whole.stack(name).add(out_a, c)
            compact.stack(name).add(out_b, c)
            assert float((out_a - out_b).norm() / out_a.norm()) < tolerance


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    model = Plain()
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    deltas = {n: torch.randn(2, *t.shape) for n, t in base.items()}
    vectors = write_vectors(tmp_path, base, deltas)
    weights = {n: TensorWeights(torch.full((2,), 0.2), tanh=True, learning_rate=0.1) for n in base}
    merge = StreamedMerge(dict(model.named_parameters()), vectors, weights)
    merge.step, merge.last_backward = 1, True
    before = {n: w.coefficients() for n, w in weights.items()}
    with pytest.raises(NonFinite, match="finite gradients in step 1"):
        (model(torch.ones(2, 5)) * float("inf")).sum().backward()
    assert all(torch.equal(before[n], w.coefficients()) for n, w in weights.items())
