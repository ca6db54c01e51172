"""A whole backbone, ready for a head to be put on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.expert import ExpertFiles
from merging.kinds import ModelKind
from merging.vectors.deltas import Source, dense_delta


@dataclass(frozen=True)
class Backbone:
    """The tensors of a model without its head, and where what reads its inputs lies.

    Attributes:
        directory: The folder that holds the model.
        tensors: By the checkpoint's own names, which transformers may rename as it loads them.
        reader: Folder with the tokenizer or the image processor.
    """

    directory: Path
    tensors: Mapping[str, Tensor]
    reader: Path

    @classmethod
    def of(cls, checkpoint: Checkpoint, kind: ModelKind) -> Self:
        """The backbone of a base or of a merged model."""
        names = backbone_names(checkpoint, kind)
        tensors = {checkpoint.tensors[name].key: checkpoint.read(name) for name in names}
        return cls(checkpoint.directory, tensors, checkpoint.directory)

    @classmethod
    def open(cls, directory: Path, kind: ModelKind) -> Self:
        """The same, of the checkpoint in a folder.

        Raises:
            InvalidInput: It is no readable checkpoint.
        """
        return cls.of(Checkpoint.open(directory), kind)

    @classmethod
    def of_expert(
        cls, base: Checkpoint, files: ExpertFiles, source: Source, kind: ModelKind
    ) -> Self:
        """The backbone of an expert; what it does not say itself comes from its base."""
        if not files.is_adapter:
            own = files.checkpoint
            new = set(own.newcomers(base)) if kind.has_head else set()  # these are the head's
            names = [name for name in backbone_names(own, kind) if name not in new]
            tensors = {own.tensors[name].key: own.read(name) for name in names}
        else:
            tensors = {}
            for name in backbone_names(base, kind):
                tensor, delta = base.read(name), dense_delta(source.delta(name), base, name)
                key = base.tensors[name].key
                tensors[key] = tensor if delta is None else tensor.float() + delta
        reads = any(files.directory.glob("tokenizer*"))
        reads = reads or (files.directory / "preprocessor_config.json").exists()
        return cls(files.directory, tensors, files.directory if reads else base.directory)
