"""Task vectors where they are computed with, tile by tile.

On the CPU a tile is a view of the mapped file. An accelerator whose memory holds all of them gets them
once (`send_all`). For one that does not the next tile is copied, through one of two pinned buffers and
on a stream of its own, while the present one is being used; what comes next is known from the step
before, since a backward pass asks in the same order every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from merging.vectors.mapped import TaskVectors
from merging.vectors.stacks import Stack


class Feed(Protocol):
    """Base and task vectors of tiles and rows."""

    def tile(self, name: str, tile: slice) -> tuple[Tensor, Stack]:
        """Base and stack of a range of rows."""
        ...

    def rows(self, name: str, rows: Tensor) -> tuple[Tensor, Stack]:
        """Base and stack of some rows of an embedding, int64 [rows] on the CPU."""
        ...


def feed_for(vectors: TaskVectors, device: torch.device) -> Feed:
    """How a device gets its tiles."""
    return MappedFeed(vectors) if device.type == "cpu" else StagedFeed(vectors, device)


def send_all(vectors: TaskVectors, name: str, device: torch.device) -> tuple[Tensor, Stack]:
    """Base and stack of a tensor on a device, to stay there."""
    sent: dict[int, Tensor] = {}  # by address, since IA³ adapters hold the base as well

    def send(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in sent:
            sent[tensor.data_ptr()] = tensor.to(device)
        return sent[tensor.data_ptr()]

    there = send(vectors.base(name)), vectors.stack(name).map(send)
    vectors.release(name)
    return there


@dataclass(frozen=True)
class MappedFeed:
    """Views of the mapped file."""

    vectors: TaskVectors

    def tile(self, name: str, tile: slice) -> tuple[Tensor, Stack]:
        """See `Feed`."""
        return _part(self.vectors, name, tile)

    def rows(self, name: str, rows: Tensor) -> tuple[Tensor, Stack]:
        """See `Feed`."""
        return self.vectors.rows(name, rows)


class StagedFeed:
    """Copies on a device, one tile ahead of the computation."""

    def __init__(self, vectors: TaskVectors, device: torch.device) -> None:
        self.vectors = vectors
        self.device = device
        self._slots = [_Slot(device), _Slot(device)]
        self._next: dict[tuple[str, int], tuple[str, slice]] = {}
        self._last: tuple[str, int] | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def tile(self, name: str, tile: slice) -> tuple[Tensor, Stack]:
        """See `Feed`; valid until the next but one is asked for."""
        key = (name, tile.start or 0)
        if self._last is not None and self._last != key:
            self._next[self._last] = (name, tile)
        self._last = key
        if self._slots[0].key != key:
            self._slots.reverse()
        current, other = self._slots
        if current.key != key:
            self._load(current, name, tile)
        current.wait()
        ahead = self._next.get(key)
        if ahead is not None and other.key != (ahead[0], ahead[1].start or 0):
            self._load(other, *ahead)
        assert current.base is not None
        assert current.stack is not None
        return current.base, current.stack

    def rows(self, name: str, rows: Tensor) -> tuple[Tensor, Stack]:
        """See `Feed`."""
        base, stack = self.vectors.rows(name, rows)
        return base.to(self.device), stack.map(lambda tensor: tensor.to(self.device))

    def _load(self, slot: _Slot, name: str, tile: slice) -> None:
        base, stack = _part(self.vectors, name, tile)
        slot.load((name, tile.start or 0), base, stack, self._stream)


class _Slot:
    """A pinned buffer, the device tensors it fills, and the event that says they are there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.key: tuple[str, int] | None = None
        self.base: Tensor | None = None
        self.stack: Stack | None = None
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._arrived = torch.cuda.Event() if device.type == "cuda" else None

    def load(
        self, key: tuple[str, int], base: Tensor, stack: Stack, stream: torch.cuda.Stream | None
    ) -> None:
        """Starts the copy of a tile."""
        hosts = iter(self._views([base, *stack.tensors()]))
        if self._arrived is not None and stream is not None:
            self._arrived.synchronize()  # the last copy out of the buffer has ended
            # Memory that is given back here may still be in use by what was computed with it.
            stream.wait_stream(torch.cuda.current_stream(self.device))

        def moved(tensor: Tensor) -> Tensor:
            host = next(hosts).copy_(tensor)
            return host.to(self.device, non_blocking=True)

        with torch.cuda.stream(stream):  # does nothing for None
            self.base = moved(base)
            self.stack = stack.map(moved)
            if self._arrived is not None and stream is not None:
                self._arrived.record(stream)
        self.key = key

    def wait(self) -> None:
        """Lets what is computed from now on wait for the copy."""
        if self._arrived is None or self.base is None or self.stack is None:
            return
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self._arrived)
        for tensor in [self.base, *self.stack.tensors()]:
            tensor.record_stream(current)

    def _views(self, tensors: list[Tensor]) -> list[Tensor]:
        """Parts of the buffer in the tensors' shapes; the buffer grows where it is too small."""
        sizes = [-(-tensor.nbytes // 64) * 64 for tensor in tensors]
        if self._buffer.numel() < sum(sizes):
            pinned = self.device.type == "cuda"
            self._buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pinned)
        views, offset = [], 0
        for tensor, size in zip(tensors, sizes, strict=True):
            flat = self._buffer[offset : offset + tensor.nbytes].view(tensor.dtype)
            views.append(flat.view(tensor.shape))
            offset += size
        return views


def _part(vectors: TaskVectors, name: str, tile: slice) -> tuple[Tensor, Stack]:
    return vectors.base(name)[tile], vectors.stack(name).take(tile)
