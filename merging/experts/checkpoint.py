"""A Hugging Face checkpoint directory, read as data: JSON and safetensors, never code.

Canonical tensor names are the checkpoint's own names without the prefix that task models put before
their backbone (`bert.`, `model.`, …), so the base and all its experts agree on them whatever class
saved them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from merging.errors import InvalidInput
from merging.experts.buffers import constants
from merging.experts.configuration import backbone_prefix, parsed_config, read_config
from merging.experts.weightfiles import WeightFiles, find_weights
from merging.kinds import ModelKind
from merging.safefile import DTYPES, open_tensors

# What holds a whole model puts its name before all of the model's: DataParallel and torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
# transformers renames these wherever it finds them.
RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies, under the name `key` without the checkpoint's wrapper, and what it is."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Checkpoint:
    """Names, shapes, dtypes and values of a checkpoint directory.

    Attributes:
        config: config.json as it stands there.
        parsed: What transformers makes of it, defaults filled in.
        tensors: By canonical name, sorted; without the constants that transformers drops as it loads.
        head: Names of the tensors that lie outside the backbone.
        wrapper: What stands before every name in the files, since DataParallel or torch.compile held
            the model when it was saved; transformers does not look behind it.
        left_aside: Names of safetensors files in the folder that are not the model.
    """

    directory: Path
    config: dict[str, Any]
    parsed: PretrainedConfig = field(repr=False, compare=False)
    tensors: dict[str, TensorInfo]
    head: frozenset[str]
    wrapper: str = ""
    left_aside: tuple[str, ...] = ()
    _files: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Reads the configuration and the headers of the weight files.

        Raises:
            InvalidInput: No safetensors, an unknown architecture or unreadable files.
        """
        directory = Path(directory)
        config = read_config(directory)
        parsed = parsed_config(directory, config)
        prefix = backbone_prefix(directory, parsed)
        files = find_weights(directory, config)
        scanned = _scan(directory, files)
        wrapper = wrapper_of([info.key for info in scanned])
        # Where no name has the prefix, the file is a bare backbone (or a model without prefix).
        prefixed = any(info.key.startswith(wrapper + prefix) for info in scanned)
        tensors: dict[str, TensorInfo] = {}
        head = set()
        for info in scanned:
            key = info.key.removeprefix(wrapper)
            name = canonical_name(key, prefix)
            if name in tensors:
                raise _twice(directory, info.key, wrapper + tensors[name].key)
            tensors[name] = replace(info, key=key)
            if prefixed and not key.startswith(prefix):
                head.add(name)
        keys = {name: info.key for name, info in tensors.items() if name not in head}
        dropped = constants(directory, parsed, keys)
        ordered = {name: tensors[name] for name in sorted(tensors) if name not in dropped}
        return cls(directory, config, parsed, ordered, frozenset(head), wrapper, files.left_aside)

    def read(self, name: str) -> Tensor:
        """The tensor of a canonical name, mapped from its file."""
        info = self.tensors[name]
        if info.file not in self._files:
            self._files[info.file] = open_tensors(info.file)
        return self._files[info.file].get_tensor(self.wrapper + info.key)

    def newcomers(self, base: Checkpoint) -> list[str]:
        """Names of the weights of the backbone that a base does not have."""
        return [
            name
            for name, info in self.tensors.items()
            if name not in base.tensors and name not in self.head and info.dtype.is_floating_point
        ]

    def close(self) -> None:
        """Lets go of the mapped files; the next read opens them again."""
        self._files.clear()


def canonical_name(key: str, prefix: str) -> str:
    """The name without prefix, and with today's names of layer norms."""
    name = key.removeprefix(prefix)
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def wrapper_of(keys: Collection[str]) -> str:
    """What wrappers of a whole model have put before every one of its names, `module._orig_mod.`."""
    found = ""
    while keys and (
        more := [w for w in WRAPPERS if all(key.startswith(found + w) for key in keys)]
    ):
        found += more[0]
    return found


def backbone_names(checkpoint: Checkpoint, kind: ModelKind) -> list[str]:
    """The tensors that are merged for a kind of model; generators have no head of their own."""
    if not kind.has_head:
        return list(checkpoint.tensors)
    return [name for name in checkpoint.tensors if name not in checkpoint.head]


def digest_directory(directory: Path) -> str:
    """SHA-256 over the sorted relative paths of a directory and the SHA-256 of each file."""
    total = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(directory).as_posix()}\0{digest_file(path)}\n".encode())
    return total.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _scan(directory: Path, files: WeightFiles) -> list[TensorInfo]:
    """Every tensor of the weight files, in their order, under its name there."""
    found: dict[str, TensorInfo] = {}
    for path in (directory / name for name in files.read):
        file, size = open_tensors(path), path.stat().st_size
        for key in file.keys():  # noqa: SIM118
            part = file.get_slice(key)
            shape = tuple(part.get_shape())
            if key in found:
                raise _twice(directory, key, f"{key} in {found[key].file.name}")
            if max(shape, default=0) > size:
                raise InvalidInput(
                    where=str(path),
                    expected="tensors that hold numbers",
                    found=f"{key} of shape {list(shape)}",
                    remedy="Save the model again with save_pretrained.",
                )
            found[key] = TensorInfo(path, key, shape, _dtype(path, part.get_dtype()))
    lost = [key for key, name in (files.index or {}).items() if _file_of(found, key) != name]
    if lost or not found:
        raise InvalidInput(
            where=str(directory),
            expected="each tensor in the shard that the index names" if lost else "tensors",
            found=f"{len(lost)} elsewhere or nowhere, {lost[0]} first" if lost else "none",
            remedy="Upload the whole checkpoint directory again, or save it with save_pretrained.",
        )
    return list(found.values())


def _file_of(found: dict[str, TensorInfo], key: str) -> str | None:
    return found[key].file.name if key in found else None


def _twice(directory: Path, key: str, other: str) -> InvalidInput:
    return InvalidInput(
        where=str(directory),
        expected="one tensor of each name",
        found=f"{key} beside {other}",
        remedy="Load the model with from_pretrained and save it with save_pretrained.",
    )


def _dtype(path: Path, name: str) -> torch.dtype:
    try:
        return DTYPES[name]
    except KeyError as error:
        raise InvalidInput(
            where=str(path),
            expected=f"tensors of {', '.join(DTYPES)}",
            found=name,
            remedy="Save the model in fp32, fp16 or bf16.",
        ) from error
