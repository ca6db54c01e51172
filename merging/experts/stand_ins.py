"""Stand-ins: tensors in the shapes of a base's that take no memory.

What transformers and PEFT do with a base's tensors, which they rename, tie together and join, cannot be
told by rules of our own. They are asked instead: they get stand-ins, and the address of a stand-in
tells where it went.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.kinds import ModelKind

SAMPLE = 16  # Numbers of a tensor that are read.


@dataclass(frozen=True)
class StandIns:
    """A stand-in for each tensor of a backbone.

    Attributes:
        tensors: By the checkpoint's own names, which transformers may rename as it loads them.
    """

    tensors: Mapping[str, Tensor]
    _places: Mapping[int, tuple[str, torch.Size]]

    @classmethod
    def of(cls, backbone: Checkpoint, kind: ModelKind) -> Self:
        """The stand-ins of a checkpoint's tensors that are merged."""
        made = {name: _stand_in(backbone.read(name)) for name in backbone_names(backbone, kind)}
        tensors = {backbone.tensors[name].key: tensor for name, tensor in made.items()}
        places = {tensor.data_ptr(): (name, tensor.shape) for name, tensor in made.items()}
        return cls(tensors, places)

    def name_of(self, value: Tensor) -> str | None:
        """Whose stand-in a tensor of a model is; None where it is nobody's, or only a part of one."""
        name, shape = self._places.get(value.data_ptr(), (None, None))
        return name if value.shape == shape else None


def _stand_in(tensor: Tensor) -> Tensor:
    """One number in the shape of a tensor; fp32, as the model will have it, or it would be copied.

    The number comes from a few places of the tensor: the loader ties two that are equal, and leaves
    two apart that should be tied and are not.
    """
    flat = tensor.flatten()
    sample = flat[:: max(1, len(flat) // SAMPLE)]
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return sample.sum(dtype=dtype).expand(tensor.shape)
