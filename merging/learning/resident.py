"""Merged parameters on an accelerator that holds all their task vectors.

Nothing has to be read tile by tile there, and what costs is the host, which needs some ten
microseconds to ask for anything, however small. So gradients of all micro-batches gather in place;
then all inner products are taken, looked at once, all coefficients updated, and all tensors written.
The two long lists of small calls are recorded as CUDA graphs, which the host repeats with one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from merging.learning.adam import clear
from merging.learning.merge import Merge, Parameters, effective, is_shared, precise, write_sum
from merging.learning.stream import StreamedMerge
from merging.learning.taskmodels import TaskModels
from merging.learning.watch import Watch
from merging.learning.weights import TensorWeights, update
from merging.models.coefficients import Coefficients
from merging.vectors.feed import feed_for, send_all
from merging.vectors.mapped import TaskVectors


def open_merge(
    models: TaskModels,
    vectors: TaskVectors,
    weights: Mapping[str, TensorWeights],
    device: torch.device,
    room: int,
) -> Merge:
    """The merged parameters of task models, with whatever way their task vectors take.

    Args:
        models: What they are merged in.
        vectors: Base and task vectors.
        weights: What is learned.
        device: Where it is computed.
        room: Bytes left for task vectors in an accelerator's memory.
    """
    if device.type != "cpu" and vectors.nbytes <= room:
        return ResidentMerge(models.merged, vectors, weights, device)
    feed = feed_for(vectors, device)
    return StreamedMerge(models.merged, vectors, weights, models.lookups, feed)


class ResidentMerge:
    """See `Merge`.

    Args:
        parameters: The merged parameters of the task models, by canonical name.
        vectors: Base and task vectors of those names.
        weights: What is learned, by the same names.
        device: Where they are, and where base and task vectors go.
    """

    def __init__(
        self,
        parameters: Parameters,
        vectors: TaskVectors,
        weights: Mapping[str, TensorWeights],
        device: torch.device,
    ) -> None:
        self.parameters = parameters
        self.weights: Mapping[str, TensorWeights] = weights
        self.watch = Watch(at_once=False)
        self.last_backward = False
        self.step = 0
        self._there = {name: send_all(vectors, name, device) for name in parameters}
        self._inner: list[Tensor] = []
        self._take = Recorded(self._take_gradients, device)
        self._write = Recorded(self._write_all, device)
        self._by_row: list[bool] = []
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        self.rebuild()

    def finish_step(self, losses: Sequence[Tensor] = ()) -> list[float]:
        """See `Merge`."""
        self._begin_anew_where_rows_changed()
        self._take()
        for name, inner in zip(self.parameters, self._inner, strict=True):
            self.watch.add(name, f"finite gradients in step {self.step}", inner)
        values = self.watch.look(losses)
        weights = [self.weights[name] for name in self.parameters]
        if is_shared(self.weights):
            update(weights[:1], [torch.stack(self._inner).sum(0)], self.step)
        else:
            update(weights, self._inner, self.step)
        self._write()
        return values

    def rebuild(self) -> None:
        """See `Merge`."""
        self._begin_anew_where_rows_changed()
        self._write()

    def coefficients(self, tasks: tuple[str, ...]) -> Coefficients:
        """See `Merge`."""
        return effective(self.weights, tasks)

    def _begin_anew_where_rows_changed(self) -> None:
        by_row = [self.weights[name].by_row for name in self.parameters]
        if by_row != self._by_row:
            self._by_row = by_row
            self._take.forget()
            self._write.forget()

    @torch.no_grad()
    def _take_gradients(self) -> None:
        """Inner products of all tensors; their gradients begin at zero again."""
        self._inner = []
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None
            _, stack = self._there[name]
            inner = stack.inner(precise(parameter.grad), rows=self.weights[name].by_row)
            self._inner.append(inner.contiguous())  # alike, so that one call updates all of them
        clear([p.grad for p in self.parameters.values() if p.grad is not None])

    @torch.no_grad()
    def _write_all(self) -> None:
        for name, parameter in self.parameters.items():
            write_sum(parameter, *self._there[name], self.weights[name].coefficients())


class Recorded:
    """Work for a device that is the same each time; a CUDA device gets it with one call.

    Args:
        run: Works on tensors that stay where they are. What it makes anew is made once, and written
            again by every later call.
        device: Where it works.
    """

    def __init__(self, run: Callable[[], None], device: torch.device) -> None:
        self._run = run
        self._recordable = device.type == "cuda"
        self._warm = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Runs it; the second time it is recorded, since the first loads kernels and memory."""
        if self._recordable and self._warm and self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._run()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run()
            self._warm = True

    def forget(self) -> None:
        """Begins anew, because something about the work has changed."""
        self._warm, self._graph = False, None
