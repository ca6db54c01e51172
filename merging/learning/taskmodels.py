"""One backbone, a task model per head: the modules that learning runs through.

Every task model is transformers' own class. Their backbone parameters are one and the same object,
so memory holds the backbone once and its gradient is summed over tasks by autograd itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.learning.lookups import WatchedEmbedding, watch
from merging.serving import assemble


class TaskModels:
    """Task models that share the backbone's parameters.

    Attributes:
        merged: The parameters that coefficients decide, by canonical name, starting at the base.
        models: Task model by task name, without dropout.
        heads: Head parameters by task and by the name in checkpoints.
        row_names: Merged matrices whose first index is an output (not a word of a vocabulary).
    """

    def __init__(
        self,
        base: Checkpoint,
        heads: Sequence[Head],
        kind: ModelKind,
        names: Collection[str],
        device: torch.device,
        *,
        tune_heads: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        # New memory for each, so that an address tells which parameter a tensor became.
        backbone = {n: base.read(n).float().clone() for n in backbone_names(base, kind)}
        self.merged = {n: nn.Parameter(backbone[n].to(device, dtype)) for n in names}
        frozen = {
            n: nn.Parameter(t.to(device, dtype), requires_grad=False)
            for n, t in backbone.items()
            if n not in self.merged and t.is_floating_point()
        }
        self.models: dict[str, Any] = {}
        self.heads: dict[str, dict[str, nn.Parameter]] = {}
        for head in heads:
            own = {n: t.detach().float().clone() for n, t in head.tensors.items()}
            parameters = {
                n: nn.Parameter(t.to(device, dtype), requires_grad=tune_heads)
                for n, t in own.items()
            }
            loaded = {base.tensors[n].key: t for n, t in backbone.items()} | own
            model = assemble(head.config, kind, loaded, head.generation)
            _share(model, {**backbone, **own}, {**frozen, **self.merged, **parameters})
            model.to(device, dtype)
            self.models[head.task] = model.eval()
            self.heads[head.task] = parameters
        users: dict[int, set[Any]] = {}
        for model in self.models.values():
            for module in model.modules():
                for parameter in module.parameters(recurse=False):
                    users.setdefault(id(parameter), set()).add(module)
        self.row_names: set[str] = set()
        self._embeddings: dict[str, list[WatchedEmbedding]] = {}
        for name, parameter in self.merged.items():
            embeddings = [m for m in users[id(parameter)] if isinstance(m, nn.Embedding)]
            if parameter.ndim > 1 and not embeddings:
                self.row_names.add(name)
            elif all(type(m) is nn.Embedding for m in users[id(parameter)]):
                self._embeddings[name] = [watch(m) for m in users[id(parameter)]]

    @property
    def lookups(self) -> dict[str, list[WatchedEmbedding]]:
        """The embeddings of each merged tensor that nothing else has read in any forward pass so far.

        They look up just the rows they are given (a learned position of BART is another row than its
        input says).
        """
        return {n: e for n, e in self._embeddings.items() if not any(m.read_whole for m in e)}


def _share(
    model: nn.Module, loaded: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> None:
    by_address = {t.data_ptr(): name for name, t in loaded.items() if t.numel()}
    modules = dict(model.named_modules())
    for path, value in list(model.named_parameters(remove_duplicate=False)):
        name = by_address.get(value.data_ptr())
        if name is not None and name in parameters:
            owner, _, leaf = path.rpartition(".")
            setattr(modules[owner], leaf, parameters[name])
