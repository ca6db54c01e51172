"""What stays each task's own: its configuration with the label names, and its head's tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.errors import InvalidInput
from merging.experts.configuration import read_config
from merging.jsonfile import read_json
from merging.safefile import load_tensors, save_tensors
from merging.serving import GENERATION, label_names

# These keys say where or how a configuration was saved, and nothing about the model.
VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
# These keys say what a task's labels are; they decide the shape of its head and nothing else.
LABELS = ("id2label", "label2id", "num_labels")


@dataclass(frozen=True)
class Head:
    """One task's head.

    Attributes:
        config: The task model's configuration, with id2label.
        tensors: Outside the backbone, by their names in checkpoints; none for generators.
        generation: How a generator writes, as in generation_config.json, where its author has one.
    """

    task: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names by class index."""
        return tuple(label_names(self.config))

    @cached_property
    def architecture(self) -> str:
        """The configuration without its labels, as JSON; heads that share it go on one model class."""
        config = {k: v for k, v in _stable(self.config).items() if k not in LABELS}
        return json.dumps(config, sort_keys=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of configuration, tensors and generation settings."""
        total = hashlib.sha256(json.dumps(_stable(self.config), sort_keys=True).encode())
        if self.generation is not None:
            total.update(json.dumps(_stable(self.generation), sort_keys=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    def save(self, directory: Path) -> None:
        """Writes config.json and, where there are any, head.safetensors and generation settings."""
        directory.mkdir(parents=True, exist_ok=True)
        contents = {"config.json": self.config, GENERATION: self.generation}
        for name, content in contents.items():
            if content is not None:
                text = json.dumps(_stable(content), indent=2, sort_keys=True) + "\n"
                (directory / name).write_text(text)
        if self.tensors:
            save_tensors(directory / "head.safetensors", self.tensors)

    @classmethod
    def load(cls, directory: Path, task: str) -> Head:
        """Reads what `save` wrote.

        Raises:
            InvalidInput: A file is missing or unreadable.
        """
        config = read_config(directory)
        weights = directory / "head.safetensors"
        tensors = load_tensors(weights)[0] if weights.exists() else {}
        return cls(task, config, tensors, read_generation(directory))


def read_generation(directory: Path) -> dict[str, Any] | None:
    """How a generator writes, by the generation_config.json of its folder; None if it has none.

    Raises:
        InvalidInput: It is no JSON object.
    """
    path = directory / GENERATION
    if not path.exists():
        return None
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InvalidInput(
            where=str(path),
            expected="a JSON object as save_pretrained writes it",
            found=f"{settings!r:.40}",
            remedy="Save it again with model.generation_config.save_pretrained.",
        )
    return settings


def _stable(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in VOLATILE}
