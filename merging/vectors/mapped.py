"""The task vectors of an expert set in one memory-mapped file, tensor by tensor.

All experts' versions of one tensor lie behind one another, so that a learning step reads each stack
once, in order, and can let go of its pages at once. The file is built once per expert set and named
by the digest of what is in it.
"""

from __future__ import annotations

import logging
import mmap
import os
import weakref
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint
from merging.experts.forms import LowRank, Scaling
from merging.safefile import Spec, read_header, write_tensors
from merging.settings import Storage
from merging.vectors.deltas import FullSource, Source
from merging.vectors.stacks import DensePart, LowRankPart, Part, ScalingPart, Stack

logger = logging.getLogger(__name__)

TILE_BYTES = 1 << 26  # Most bytes of task vectors that are mapped at a time.
BLOCK_BYTES = 1 << 24  # Most bytes of task vectors that are put together in memory at a time.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def build_vectors(
    path: Path,
    base: Checkpoint,
    sources: Sequence[Source],
    names: Sequence[str],
    storage: Storage = "fp32",
    lookups: Collection[str] = (),
) -> None:
    """Writes the base (fp32) and the task vectors of `names`; nothing where the file is there.

    Args:
        path: The file, named by the digest of what is in it.
        base: The base checkpoint.
        sources: Task vectors in column order.
        names: Canonical names of the tensors to merge.
        storage: How the numbers of matrices are kept; int8 has one scale per row. The factors of
            adapters, and tensors with one index, are small and stay fp32.
        lookups: Embeddings, of which a step reads some rows. All experts' versions of a row lie
            behind one another, so that a row is one place in the file however many experts there are.
    """
    if path.exists():
        return
    layout: dict[str, list[dict[str, Any]]] = {}
    specs: dict[str, Spec] = {}
    for name in names:
        shape = base.tensors[name].shape
        specs[f"base/{name}"] = Spec(shape, torch.float32)
        layout[name] = []
        dtype = DTYPES[storage] if len(shape) > 1 else torch.float32
        dense = []
        for column, source in enumerate(sources):
            delta = source.delta(name)
            if isinstance(delta, LowRank):
                layout[name].append({"form": "low-rank", "column": column})
                specs[f"up/{column}/{name}"] = Spec(tuple(delta.up.shape), torch.float32)
                specs[f"down/{column}/{name}"] = Spec(tuple(delta.down.shape), torch.float32)
            elif isinstance(delta, Scaling):
                entry = {"form": "scaling", "column": column, "axis": delta.axis}
                layout[name].append(entry)
                specs[f"factor/{column}/{name}"] = Spec(tuple(delta.factor.shape), torch.float32)
            elif delta is not None and bool(torch.count_nonzero(delta)):
                dense.append(column)
        if dense:
            layout[name].append({"form": "dense", "columns": dense})
            if name in lookups:
                layout[name][-1]["form"] = "rows"
                for start, stop in _row_blocks(shape, len(dense)):
                    spec = Spec((stop - start, len(dense), *shape[1:]), dtype)
                    specs[f"rows/{start}/{name}"] = spec
            else:
                specs.update({f"dense/{c}/{name}": Spec(shape, dtype) for c in dense})
            if dtype == torch.int8:
                spec = Spec((shape[0],), torch.float32)
                specs.update({f"scale/{c}/{name}": spec for c in dense})

    def read(entry: str) -> Tensor:
        part, _, rest = entry.partition("/")
        if part == "base":
            return base.read(rest).float()
        column, _, name = rest.partition("/")
        if part == "rows":
            spec = specs[entry]
            start = int(column)
            rows = slice(start, start + spec.shape[0])
            owners = next(e["columns"] for e in layout[name] if e["form"] == "rows")
            blocks = [_some_rows(sources[c], name, rows) for c in owners]
            if spec.dtype == torch.int8:
                blocks = [_quantised(block, row_scales(block)) for block in blocks]
            return torch.stack(blocks, 1).to(spec.dtype)
        delta = sources[int(column)].delta(name)
        if isinstance(delta, LowRank):
            return delta.up if part == "up" else delta.down
        if isinstance(delta, Scaling):
            return delta.factor
        assert delta is not None
        dtype = specs[entry].dtype
        if part == "scale" or dtype == torch.int8:
            scales = row_scales(delta)
            return scales if part == "scale" else _quantised(delta, scales)
        return delta.to(dtype)

    logger.info("writing the task vectors of %d experts to %s", len(sources), path)
    # fp32 first, so that nothing is misaligned behind an odd number of int8 values.
    ordered = dict(sorted(specs.items(), key=lambda item: -item[1].dtype.itemsize))
    metadata = {"experts": len(sources), "names": list(names), "layout": layout}
    write_tensors(path, ordered, read, metadata)


def _row_blocks(shape: tuple[int, ...], experts: int) -> list[tuple[int, int]]:
    """Ranges of rows whose task vectors together are small enough to be put together in memory."""
    size = max(1, BLOCK_BYTES // (4 * experts * torch.Size(shape[1:]).numel()))
    return [(a, min(a + size, shape[0])) for a in range(0, shape[0], size)]


def _some_rows(source: Source, name: str, rows: slice) -> Tensor:
    if isinstance(source, FullSource):
        return source.expert.read(name)[rows].float() - source.base.read(name)[rows].float()
    delta = source.delta(name)
    assert isinstance(delta, Tensor)
    return delta[rows]


def row_scales(delta: Tensor) -> Tensor:
    """What int8 values of each row are multiplied with, fp32 [rows]."""
    return (delta.flatten(1).abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)


def _quantised(delta: Tensor, scales: Tensor) -> Tensor:
    return (delta / scales.view(-1, *[1] * (delta.ndim - 1))).round_().to(torch.int8)


class TaskVectors:
    """Reads the file that `build_vectors` wrote; nothing is in memory but the pages in use."""

    def __init__(self, path: Path, *, resident: bool = False) -> None:
        self._entries, metadata = read_header(path)
        self._layout: dict[str, list[dict[str, Any]]] = metadata["layout"]
        self.names: list[str] = metadata["names"]
        self.num_experts: int = metadata["experts"]
        self.resident = resident
        opened = path.open("rb")
        weakref.finalize(self, opened.close)
        self._file = opened.fileno()
        # Copy-on-write, since torch wants writable memory; nobody writes.
        self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_COPY)
        if resident:
            self._map.madvise(mmap.MADV_WILLNEED)
        self.nbytes = len(self._map)
        self._stacks = {n: Stack(self.num_experts, list(self._parts(n))) for n in self.names}
        self._pages = {n: list(self._whole_pages(n)) for n in self.names}
        self._tiles = {n: self._row_tiles(n) for n in self.names}

    def base(self, name: str) -> Tensor:
        """The base's tensor, fp32 in its shape."""
        return self._read(f"base/{name}")

    def stack(self, name: str) -> Stack:
        """All task vectors of a tensor."""
        return self._stacks[name]

    def rows(self, name: str, rows: Tensor) -> tuple[Tensor, Stack]:
        """Base and task vectors of some rows of an embedding, int64 [rows].

        They are read and not mapped: a page fault would map the megabyte around each row.
        """
        parts: list[Part] = []
        for part in self.stack(name).parts:
            if isinstance(part, DensePart) and f"rows/0/{name}" in self._entries:
                gathered = self._gather(f"rows/0/{name}", rows).transpose(0, 1)
                scales = None if part.scales is None else part.scales[:, rows]
                parts.append(DensePart(part.columns, gathered, scales))
            else:
                parts.append(part.take(rows))
        return self._gather(f"base/{name}", rows), Stack(self.num_experts, parts)

    def _gather(self, entry: str, rows: Tensor) -> Tensor:
        spec, offset = self._entries[entry]
        size = torch.Size(spec.shape[1:]).numel() * spec.dtype.itemsize
        gathered = torch.empty(len(rows), *spec.shape[1:], dtype=spec.dtype)
        memory = memoryview(gathered.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]
        for index, row in enumerate(rows.tolist()):
            os.preadv(self._file, [memory[index * size : (index + 1) * size]], offset + row * size)
        return gathered

    def tiles(self, name: str) -> list[slice]:
        """Ranges of rows whose task vectors together take at most TILE_BYTES; all rows in one."""
        return self._tiles[name]

    def _row_tiles(self, name: str) -> list[slice]:
        spec, _ = self._entries[f"base/{name}"]
        pages = sum(length for _, length in self._pages[name])
        count = -(-pages // TILE_BYTES)
        if self.resident or count < 2 or not spec.shape:
            return [slice(None)]
        size = max(1, spec.shape[0] // count)
        return [slice(start, start + size) for start in range(0, spec.shape[0], size)]

    def release(self, name: str) -> None:
        """Takes a tensor's pages out of this process; the next read maps them again."""
        for first, length in () if self.resident else self._pages[name]:
            self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def _whole_pages(self, name: str) -> Iterator[tuple[int, int]]:
        """Start and length of the file ranges that hold nothing but this tensor."""
        base, _ = self._entries[f"base/{name}"]
        ranges = [(f"base/{name}", base.nbytes)]
        for part in self._layout[name]:
            if part["form"] in ("dense", "rows"):
                first_entry = f"{part['form']}/{part['columns'][0]}/{name}"
                if part["form"] == "rows":
                    first_entry = f"rows/0/{name}"
                width = self._entries[first_entry][0].dtype.itemsize
                ranges.append((first_entry, base.nbytes // 4 * width * len(part["columns"])))
        for entry, size in ranges:
            offset = self._entries[entry][1]
            first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
            length = (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
            if length > 0:
                yield first, length

    def _parts(self, name: str) -> Iterator[Part]:
        low_rank = [e["column"] for e in self._layout[name] if e["form"] == "low-rank"]
        if low_rank:
            ups = [self._read(f"up/{c}/{name}") for c in low_rank]
            ranks = torch.tensor([up.shape[1] for up in ups])
            yield LowRankPart(
                torch.tensor(low_rank),
                torch.cat(ups, 1),
                torch.cat([self._read(f"down/{c}/{name}") for c in low_rank]),
                torch.arange(len(low_rank)).repeat_interleave(ranks),
            )
        for axis in (0, 1):
            scaled = [e["column"] for e in self._layout[name] if e.get("axis") == axis]
            if scaled:
                factors = torch.stack([self._read(f"factor/{c}/{name}") for c in scaled])
                yield ScalingPart(torch.tensor(scaled), factors, self.base(name), axis)
        for entry in self._layout[name]:
            if entry["form"] in ("dense", "rows"):
                columns = entry["columns"]
                scales = None
                if f"scale/{columns[0]}/{name}" in self._entries:
                    scales = self._read(f"scale/{columns[0]}/{name}", len(columns))
                if entry["form"] == "rows":
                    shape = self._entries[f"base/{name}"][0].shape
                    stack = self._read(f"rows/0/{name}", shape=(shape[0], len(columns), *shape[1:]))
                    stack = stack.transpose(0, 1)
                else:
                    stack = self._read(f"dense/{columns[0]}/{name}", len(columns))
                yield DensePart(torch.tensor(columns), stack, scales)

    def _read(
        self, entry: str, count: int | None = None, shape: tuple[int, ...] | None = None
    ) -> Tensor:
        """One entry, or what it and the entries behind it hold: `count` of them, or a `shape`."""
        spec, offset = self._entries[entry]
        shape = shape or (spec.shape if count is None else (count, *spec.shape))
        numbers = torch.Size(shape).numel()
        flat = torch.frombuffer(self._map, dtype=spec.dtype, count=numbers, offset=offset)
        return flat.view(shape)
