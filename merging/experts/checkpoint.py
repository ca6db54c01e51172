"""A Hugging Face checkpoint directory, read as data: JSON and safetensors, never code.

Canonical tensor names are the checkpoint's own names without the prefix that task models put before
their backbone (`bert.`, `model.`, …), so the base and all its experts agree on them whatever class
saved them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import MODEL_MAPPING, AutoConfig, PretrainedConfig

from merging.errors import InvalidInput
from merging.safefile import DTYPES


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies, under the name `key` in its file, and what it is."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Checkpoint:
    """Names, shapes, dtypes and values of a checkpoint directory.

    Attributes:
        tensors: By canonical name, sorted.
        head: Names of the tensors that lie outside the backbone.
    """

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    head: frozenset[str]
    _files: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Reads the configuration and the headers of the weight files.

        Raises:
            InvalidInput: No safetensors, an unknown architecture or unreadable files.
        """
        directory = Path(directory)
        config = read_config(directory)
        prefix = backbone_prefix(directory, parsed_config(directory, config))
        scanned = dict(_scan(directory))
        tensors = {canonical_name(key, prefix): info for key, info in scanned.items()}
        # Where no name has the prefix, the file is a bare backbone (or a model without prefix).
        prefixed = any(key.startswith(prefix) for key in scanned)
        head = frozenset(key for key in scanned if prefixed and not key.startswith(prefix))
        return cls(directory, config, dict(sorted(tensors.items())), head)

    def read(self, name: str) -> Tensor:
        """The tensor of a canonical name, mapped from its file."""
        info = self.tensors[name]
        if info.file not in self._files:
            self._files[info.file] = _open(info.file)
        return self._files[info.file].get_tensor(info.key)

    def close(self) -> None:
        """Lets go of the mapped files; the next read opens them again."""
        self._files.clear()


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint.

    Raises:
        InvalidInput: It is missing, not JSON, or asks for code of its own.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict) or not isinstance(config.get("id2label", {}), dict):
            raise ValueError("a configuration, or an id2label in it, that is no JSON object")
    except (OSError, ValueError) as error:
        raise InvalidInput(
            where=str(path),
            expected="the JSON configuration of a Hugging Face checkpoint",
            found=str(error),
            remedy="Save the model with save_pretrained.",
        ) from error
    if "auto_map" in config:
        raise InvalidInput(
            where=str(path),
            expected="an architecture that transformers itself has",
            found="auto_map, which would run code from the checkpoint",
            remedy="Remote code is never run; use an architecture of transformers.",
        )
    return config


def parsed_config(directory: Path, config: dict[str, Any]) -> PretrainedConfig:
    """The configuration object that transformers makes of `config`."""
    values = dict(config)
    model_type = values.pop("model_type", None)
    try:
        return AutoConfig.for_model(model_type, **values)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            where=str(directory / "config.json"),
            expected="a configuration that transformers knows",
            found=f"model_type {model_type!r}: {str(error).splitlines()[0][:200]}",
            remedy="Use an architecture of the installed transformers.",
        ) from error


def backbone_prefix(directory: Path, config: PretrainedConfig) -> str:
    """What task models of this architecture put before the names of their backbone."""
    try:
        backbone: Any = MODEL_MAPPING[type(config)]
        return f"{backbone.base_model_prefix}."
    except KeyError as error:
        raise InvalidInput(
            where=str(directory),
            expected="an architecture with a plain backbone (AutoModel)",
            found=str(config.model_type),
            remedy="Use an architecture that AutoModel can load.",
        ) from error


def canonical_name(key: str, prefix: str) -> str:
    """The name without prefix, and with today's names of layer norms."""
    name = key.removeprefix(prefix)
    if "LayerNorm" in name:
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
    return name


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


def _scan(directory: Path) -> Iterator[tuple[str, TensorInfo]]:
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        pickles = sorted(p.name for p in directory.glob("*.bin")) + sorted(
            p.name for p in directory.glob("*.pt*")
        )
        raise InvalidInput(
            where=str(directory),
            expected="weights in safetensors files",
            found=f"only {', '.join(pickles)}" if pickles else "none",
            remedy="Save the model with save_pretrained; pickled weights are never read.",
        )
    for path in files:
        file = _open(path)
        for key in file.keys():  # noqa: SIM118
            part = file.get_slice(key)
            yield (
                key,
                TensorInfo(path, key, tuple(part.get_shape()), _dtype(path, part.get_dtype())),
            )
    _check_index(directory, {path.name for path in files})


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


def _check_index(directory: Path, present: set[str]) -> None:
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return
    missing = sorted(set(json.loads(index.read_text())["weight_map"].values()) - present)
    if missing:
        raise InvalidInput(
            where=str(index),
            expected="every shard that the index names",
            found=f"{', '.join(missing)} missing",
            remedy="Upload the whole checkpoint directory again.",
        )


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InvalidInput(
            where=str(path),
            expected="a whole safetensors file",
            found=str(error),
            remedy="Upload it again.",
        ) from error
