"""Labels that nobody named: an adapter without config.json has a head, and that has a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from merging.kinds import ModelKind
from merging.serving import label_names, model_class


def with_labels(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], kind: ModelKind
) -> dict[str, Any]:
    """A base's configuration with as many labels as the head of an adapter has.

    Args:
        config: The base's configuration. Its label names are kept if they are as many.
        tensors: The adapter's, by the names in its file.
        kind: The kind of model.

    Raises:
        TaskError: transformers has no such task model.
    """
    count = _count(config, tensors, kind)
    if count is None or count == len(label_names(config)):
        return dict(config)
    return dict(config) | _numbered(count)


def _numbered(count: int) -> dict[str, Any]:
    names = [f"LABEL_{index}" for index in range(count)]
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def _count(config: Mapping[str, Any], tensors: Mapping[str, Tensor], kind: ModelKind) -> int | None:
    """The size of that axis of the head which has one place per label; None where no head was saved."""
    two, three = (_shapes(dict(config) | _numbered(count), kind) for count in (2, 3))
    for name, shape in two.items():
        for axis, (size, other) in enumerate(zip(shape, three[name], strict=True)):
            if size != other:
                for key, tensor in tensors.items():
                    plain = key.replace(".base_layer.", ".")
                    if plain.endswith(f".{name}") and tensor.ndim == len(shape):
                        return int(tensor.shape[axis])
    return None


def _shapes(config: Mapping[str, Any], kind: ModelKind) -> dict[str, torch.Size]:
    cls, parsed = model_class(config, kind)
    with torch.device("meta"):
        return {name: p.shape for name, p in cls(parsed).named_parameters()}
