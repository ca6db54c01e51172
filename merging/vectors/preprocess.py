"""Task vectors of matrices, changed before coefficients are learned for them.

    sources = processed_sources(experts, "tsv-m")    # in the experts' order

Training-free merges look for directions in which experts do not disturb one another; coefficients say
how far to go. So the one can be done before the other; docs/quality.md has what that is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint
from merging.settings import Preprocess
from merging.vectors.deltas import Delta, Source, stacked_deltas
from merging.vectors.expert_set import ExpertSet
from merging.vectors.spectral import iso_c_tensor, tsv_m_tensors


def _iso_each(stack: Tensor) -> Tensor:
    """Iso-C's even spectrum, for each task vector by itself, [experts, rows, columns]."""
    return torch.stack([iso_c_tensor(delta) for delta in stack])


METHODS: Mapping[Preprocess, Callable[[Tensor], Tensor]] = {
    "tsv-m": tsv_m_tensors,
    "iso-c": _iso_each,
}


def processed_sources(experts: ExpertSet, method: Preprocess) -> Sequence[Source]:
    """The experts' task vectors, in their order, processed by `method`.

    What TSV-M makes of an expert depends on the others of the set.
    """
    if method == "none":
        return experts.sources
    together = _Together(experts.base, experts.sources, METHODS[method])
    return [_Processed(together, index) for index in range(len(experts.sources))]


@dataclass
class _Together:
    """The task vectors of all experts; those of the tensor that was asked for last are kept."""

    base: Checkpoint
    sources: Sequence[Source]
    method: Callable[[Tensor], Tensor]
    _last: tuple[str, Sequence[Delta]] = field(default=("", ()))

    def deltas(self, name: str) -> Sequence[Delta]:
        """By expert; matrices processed, everything else as it is."""
        if self._last[0] != name:
            if len(self.base.tensors[name].shape) == 2:
                stack = stacked_deltas(self.base, self.sources, name)
                with _one_thread():
                    deltas: Sequence[Delta] = list(self.method(stack))
            else:
                deltas = [source.delta(name) for source in self.sources]
            self._last = (name, deltas)
        return self._last[1]


@dataclass(frozen=True)
class _Processed:
    """One expert's share of what was processed together."""

    together: _Together
    index: int

    def delta(self, name: str) -> Delta:
        """See `Source`; not to be changed by the caller."""
        return self.together.deltas(name)[self.index]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Singular vectors depend on how the work was shared out, and a merge is built again to verify it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
