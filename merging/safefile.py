"""Safetensors files written one tensor at a time, with the same bytes for the same content.

The format is eight bytes of header length, a JSON header and the raw tensors. Writing it here keeps
one tensor in memory instead of a whole shard and fixes the order of everything in the header, which
the usual writer does not promise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from merging.errors import InvalidInput
from merging.jsonfile import parse_json, refuse_pointer

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
LARGEST_HEADER = 32 << 20  # Bytes; a model of 100,000 tensors has 12 MB.


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of a tensor that is yet to be written."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in memory and in a file."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


def write_tensors(
    path: Path,
    specs: Mapping[str, Spec],
    read: Callable[[str], Tensor | Iterable[Tensor]],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes `path` whole or not at all, asking `read` for one tensor after the other.

    Args:
        path: The file to create or replace.
        specs: What will be written, in this order.
        read: Gives the tensor of a name, shape and dtype as in `specs`; or its numbers in order as
            smaller tensors, as many and of that dtype.
        metadata: JSON values kept in the header under one key.
    """
    header: dict[str, Any] = {}
    if metadata is not None:
        header["__metadata__"] = {"json": json.dumps(metadata, sort_keys=True)}
    offset = 0
    for name, spec in specs.items():
        end = offset + spec.nbytes
        header[name] = {
            "dtype": NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for name, spec in specs.items():
                blocks = read(name)
                if isinstance(blocks, Tensor):
                    assert tuple(blocks.shape) == spec.shape
                    blocks = [blocks]
                written = sum(file.write(_raw_bytes(block, spec)) for block in blocks)
                assert written == spec.nbytes
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes tensors that are in memory anyway, sorted by name."""
    ordered = {name: tensors[name].detach().cpu() for name in sorted(tensors)}
    specs = {name: Spec(tuple(t.shape), t.dtype) for name, t in ordered.items()}
    write_tensors(path, specs, ordered.__getitem__, metadata)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by this module or by any other safetensors writer.

    Raises:
        InvalidInput: The file is missing, truncated or not a safetensors file.
    """
    file = open_tensors(path)
    try:
        metadata = parse_json((file.metadata() or {}).get("json", "{}"))
        if not isinstance(metadata, dict):
            raise ValueError("metadata that is no JSON object")
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise _not_whole(path, error) from error


def open_tensors(path: Path) -> Any:
    """An open safetensors file; its header is small and agrees with its length.

    Raises:
        InvalidInput: The file is missing, truncated, a git-lfs pointer or not a safetensors file.
    """
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"a header that claims {length:,} bytes")
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError, ValueError) as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(
        where=str(path),
        expected="a whole safetensors file",
        found=getattr(error, "strerror", None) or str(error)[:200],
        remedy="Save it again, or fetch it again.",
    )


def read_header(path: Path) -> tuple[dict[str, tuple[Spec, int]], dict[str, Any]]:
    """Spec and byte position of every tensor, and the metadata, without reading the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata = json.loads(header.pop("__metadata__", {}).get("json", "{}"))
    entries = {
        name: (Spec(tuple(e["shape"]), DTYPES[e["dtype"]]), 8 + length + e["data_offsets"][0])
        for name, e in header.items()
    }
    return entries, metadata


def _raw_bytes(tensor: Tensor, spec: Spec) -> memoryview:
    assert tensor.dtype == spec.dtype
    flat = tensor.detach().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
