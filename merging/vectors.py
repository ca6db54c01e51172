"""The task vectors of an expert set in one memory-mapped file, tensor by tensor.

All experts' versions of one tensor lie behind one another, so that a learning step reads each stack
once, in order, and can let go of its pages at once. The file is built once per expert set and named
by the digest of what is in it.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from merging.checkpoint import Checkpoint
from merging.deltas import task_vector
from merging.safefile import Spec, read_header, write_tensors

logger = logging.getLogger(__name__)


def build_vectors(
    path: Path, base: Checkpoint, experts: Sequence[Path], names: Sequence[str]
) -> None:
    """Writes base and task vectors of `names` as fp32; does nothing where the file is there."""
    if path.exists():
        return
    checkpoints = [Checkpoint.open(directory) for directory in experts]
    specs: dict[str, Spec] = {}
    for name in names:
        spec = Spec(base.tensors[name].shape, torch.float32)
        specs[f"base/{name}"] = spec
        specs.update({f"{index}/{name}": spec for index in range(len(experts))})

    def read(entry: str) -> Tensor:
        source, _, name = entry.partition("/")
        if source == "base":
            return base.read(name).float()
        return task_vector(base, checkpoints[int(source)], name)

    logger.info("writing the task vectors of %d experts to %s", len(experts), path)
    write_tensors(path, specs, read, {"experts": len(experts), "names": list(names)})


class TaskVectors:
    """Reads the file that `build_vectors` wrote; nothing is in memory but the pages in use."""

    def __init__(self, path: Path) -> None:
        self._entries, metadata = read_header(path)
        self.names: list[str] = metadata["names"]
        self.num_experts: int = metadata["experts"]
        with path.open("rb") as file:
            # Copy-on-write, since torch wants writable memory; nobody writes.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def base(self, name: str) -> Tensor:
        """The base's tensor, fp32 in its shape."""
        spec, offset = self._entries[f"base/{name}"]
        return self._view(spec, offset, spec.shape)

    def stack(self, name: str) -> Tensor:
        """All task vectors of a tensor, fp32 [experts, *shape]."""
        spec, offset = self._entries[f"0/{name}"]
        return self._view(spec, offset, (self.num_experts, *spec.shape))

    def release(self, name: str) -> None:
        """Takes the pages of a tensor out of this process; the next read maps them again."""
        spec, start = self._entries[f"base/{name}"]
        end = start + spec.nbytes * (self.num_experts + 1)
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def _view(self, spec: Spec, offset: int, shape: tuple[int, ...]) -> Tensor:
        count = torch.Size(shape).numel()
        return torch.frombuffer(self._map, dtype=spec.dtype, count=count, offset=offset).view(shape)
