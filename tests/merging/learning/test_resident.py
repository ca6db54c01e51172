"""What an accelerator does differently: everything resident, one look a step, calls recorded."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from merging.errors import NonFinite
from merging.learning import group_merge, resident
from merging.learning.learn import Learned, learn_coefficients
from merging.learning.resident import Recorded, ResidentMerge, open_merge
from merging.learning.state import StepRecord
from merging.learning.stream import StreamedMerge
from merging.learning.taskmodels import TaskModels
from merging.learning.weights import TensorWeights, update
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet
from merging.vectors.feed import MappedFeed
from tests.merging.learning.test_stream import Plain, write_vectors

CPU = torch.device("cpu")
SETTINGS = MergeSettings(
    steps=10,
    row_share=0.4,
    batch_size=4,
    evaluate_every=2,
    calibration_size=24,
    tune_heads=True,
)


@pytest.fixture
def on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go the accelerator's way, on the CPU."""

    def opened(models: TaskModels, vectors: Any, weights: Any, *_: object) -> ResidentMerge:
        return ResidentMerge(models.merged, vectors, weights, CPU)

    monkeypatch.setattr(group_merge, "open_merge", opened)


def largest_difference(a: Learned, b: Learned) -> float:
    values = b.coefficients.values
    return max(float((v - values[n]).abs().max()) for n, v in a.coefficients.values.items())


@pytest.mark.parametrize("changes", [{}, {"granularity": "model"}, {"storage": "int8"}])
def test_it_learns_what_streaming_learns(
    text_set: ExpertSet, tmp_path: Path, request: pytest.FixtureRequest, changes: dict[str, Any]
) -> None:
    settings = SETTINGS.model_copy(update=changes)
    streamed = learn_coefficients(text_set, settings, work=tmp_path / "streamed", device=CPU)
    request.getfixturevalue("on_an_accelerator")
    found = learn_coefficients(text_set, settings, work=tmp_path / "resident", device=CPU)
    assert largest_difference(found, streamed) < 1e-4
    for ours, theirs in zip(found.history, streamed.history, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)


@pytest.mark.usefixtures("on_an_accelerator")
def test_a_killed_run_ends_bitwise_the_same(text_set: ExpertSet, tmp_path: Path) -> None:
    def die(record: StepRecord) -> None:
        if record.step == 9:
            raise KeyboardInterrupt

    whole = learn_coefficients(text_set, SETTINGS, work=tmp_path / "whole", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        learn_coefficients(text_set, SETTINGS, work=tmp_path / "x", device=CPU, progress=die)
    resumed = learn_coefficients(text_set, SETTINGS, work=tmp_path / "x", device=CPU)
    assert largest_difference(whole, resumed) == 0
    assert whole.history == resumed.history


def opened(folder: Path, model: nn.Module) -> ResidentMerge:
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    deltas = {n: torch.randn(2, *t.shape) for n, t in base.items()}
    weights = {}
    for name, tensor in base.items():
        rows = len(tensor) if tensor.ndim == 2 else 0
        weights[name] = TensorWeights(torch.zeros(2), tanh=True, learning_rate=0.1, rows=rows)
        weights[name].rows_learn = rows > 0
    vectors = write_vectors(folder, base, deltas)
    return ResidentMerge(dict(model.named_parameters()), vectors, weights, CPU)


class Looks(TorchDispatchMode):
    """Counts what would make the processor wait for an accelerator."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "_unique2", "unique_dim", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.overloadpacket.__name__
        if name in self.WAITING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_looks_at_its_numbers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Plain()
    merge = opened(tmp_path, model)
    lists: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda t: lists.append(t.numel()) or tolist(t))
    with Looks() as looks:
        for step in (1, 2):
            merge.step = step
            losses = [model(torch.randn(4, 5)).square().mean() for _ in range(3)]
            for loss in losses:
                merge.watch.add("a task", "a finite loss", loss.detach())
                loss.backward()
            values = merge.finish_step([loss.detach() for loss in losses])
    assert values == [pytest.approx(float(loss.detach())) for loss in losses]
    assert looks.found == []
    assert lists == [4, 4]  # one flag and three losses, of each step


def test_nothing_is_updated_with_what_is_not_finite(tmp_path: Path) -> None:
    model = Plain()
    merge = opened(tmp_path, model)
    before = merge.coefficients(("a", "b")).digest
    merge.step = 1
    (model(torch.ones(2, 5)) * float("inf")).sum().backward()
    with pytest.raises(NonFinite, match="finite gradients in step 1"):
        merge.finish_step()
    assert merge.coefficients(("a", "b")).digest == before


def test_weights_updated_together_are_updated_as_one_by_one() -> None:
    torch.manual_seed(0)
    sizes = [3, 70, 1000]
    inner = [torch.randn(2, size) for size in sizes]

    def made() -> list[TensorWeights]:
        found = [TensorWeights(torch.zeros(2), tanh=True, learning_rate=0.1, rows=n) for n in sizes]
        for weights in found:
            weights.rows_learn = True
        return found

    together, single = made(), made()
    for step in (1, 2):
        update(together, inner, step)
        for weights, products in zip(single, inner, strict=True):
            update([weights], [products], step)
    for ours, theirs in zip(together, single, strict=True):
        assert torch.equal(ours.coefficients(), theirs.coefficients())


@pytest.mark.parametrize("short_of", [0, 1])
def test_task_vectors_are_resident_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_of: int
) -> None:
    monkeypatch.setattr(resident, "ResidentMerge", lambda *_: "resident")
    monkeypatch.setattr(resident, "feed_for", lambda vectors, _: MappedFeed(vectors))
    model = Plain()
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    vectors = write_vectors(tmp_path, base, {n: torch.randn(2, *t.shape) for n, t in base.items()})
    weights = {n: TensorWeights(torch.zeros(2), tanh=True, learning_rate=0.1) for n in base}

    models: Any = SimpleNamespace(merged=dict(model.named_parameters()), lookups={})
    room = vectors.nbytes - short_of
    found = open_merge(models, vectors, weights, torch.device("cuda"), room)
    assert isinstance(found, StreamedMerge) if short_of else found == "resident"


def test_work_is_recorded_the_second_time_and_then_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []

    class Graph:
        def replay(self) -> None:
            events.append("replay")

    @contextmanager
    def recording(graph: Graph, **_: object) -> Any:
        assert isinstance(graph, Graph)
        events.append("record")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    work = Recorded(lambda: events.append("run"), torch.device("cuda"))
    for _ in range(3):
        work()
    assert events == ["run", "record", "run", "replay", "replay"]
    work.forget()
    work()
    assert events[5:] == ["run"]
