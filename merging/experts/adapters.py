"""PEFT adapters: task vectors in factored form, read without PEFT and without its code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.safefile import load_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# The task vector of these variants is no plain product of the saved factors.
UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
)
# These ways to start the factors leave the base's weights alone. PiSSA, for one, takes its factors
# out of them, so that such an adapter belongs to another base.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LowRank:
    """LoRA (Hu et al., 2021): τ = up · down, the scale folded into `up`.

    Attributes:
        up: fp32 [rows, rank].
        down: fp32 [rank, columns].
    """

    up: Tensor
    down: Tensor

    def dense(self, original: Tensor) -> Tensor:
        """τ in the shape of the base's tensor, summed rank by rank for the same bits everywhere."""
        total = torch.zeros(self.up.shape[0], self.down.shape[1])
        for up, down in zip(self.up.unbind(1), self.down.unbind(0), strict=True):
            total += up[:, None] * down
        return total.view(original.shape)


@dataclass(frozen=True)
class Scaling:
    """IA³ (Liu et al., 2022): τ = θp ⊙ (l − 1) along one axis.

    Attributes:
        factor: l − 1, fp32 [size of that axis].
        axis: 0 where outputs are scaled, 1 where inputs are.
    """

    factor: Tensor
    axis: int

    def dense(self, original: Tensor) -> Tensor:
        """τ in the shape of the base's tensor, `original`."""
        shape = [1] * original.ndim
        shape[self.axis] = -1
        return original * self.factor.view(shape)


@dataclass(frozen=True)
class AdapterFiles:
    """What lies in the folder of a PEFT adapter.

    Attributes:
        config: adapter_config.json.
        tensors: All tensors, without PEFT's prefix; the head's are among them.
    """

    directory: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Reads an adapter.

        Raises:
            InvalidInput: Unreadable files, or a kind of adapter that is not a plain LoRA or IA³.
        """
        return cls(directory, _read_config(directory), _read_tensors(directory))


@dataclass(frozen=True)
class Adapter:
    """The task vector of an adapter directory, by canonical tensor name.

    Attributes:
        factored: LoRA and IA³ parts.
        replaced: Parameters (biases) that were trained and saved whole.
    """

    base: Checkpoint
    factored: Mapping[str, LowRank | Scaling]
    replaced: Mapping[str, Tensor]

    @classmethod
    def bind(
        cls,
        files: AdapterFiles,
        base: Checkpoint,
        parameters: Mapping[str, Sequence[str]],
        head: Collection[str],
    ) -> Self:
        """Finds the place of each of an adapter's tensors in its base.

        Args:
            files: The adapter.
            base: The base checkpoint.
            parameters: Names in the task model of each tensor of the base.
            head: Names of the tensors that belong to the head.

        Raises:
            InvalidInput: A tensor of the adapter has no place in the base.
        """
        config, tensors = files.config, files.tensors
        canonical = {path: name for name, paths in parameters.items() for path in paths}
        factored: dict[str, LowRank | Scaling] = {}
        replaced: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            if key in head:
                continue
            module, kind = _place(key)
            weight, bias = canonical.get(f"{module}.weight"), canonical.get(f"{module}.bias")
            if kind in ("lora_A", "lora_embedding_A") and weight:
                factored[weight] = _low_rank(config, module, kind, key, tensors)
            elif kind == "ia3_l" and weight:
                inputs = tensor.shape[0] == 1  # [1, inputs] or [outputs, 1]
                factor = tensor.float().flatten() - 1
                flipped = bool(config.get("fan_in_fan_out"))
                factored[weight] = Scaling(factor, axis=int(inputs != flipped))
                if bias and not inputs:
                    factored[bias] = Scaling(factor, axis=0)
            elif key in canonical:
                replaced[canonical[key]] = tensor
            elif kind not in ("lora_B", "lora_embedding_B"):
                raise _unfit(files.directory, "tensors that belong to the base", key)
        return cls(base, factored, replaced)

    def delta(self, name: str) -> Tensor | LowRank | Scaling | None:
        """The task vector of one tensor; None where the adapter leaves it alone."""
        if name in self.replaced:
            return self.replaced[name].float() - self.base.read(name).float()
        return self.factored.get(name)


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds a PEFT adapter and not a full checkpoint."""
    return (directory / CONFIG).is_file()


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise _unfit(directory, "a readable adapter configuration", str(error)) from error
    kind = config.get("peft_type")
    unsupported = [key for key in UNSUPPORTED if config.get(key)]
    if (start := config.get("init_lora_weights")) not in STARTS:
        unsupported.append(f"init_lora_weights={start}")
    if kind not in ("LORA", "IA3") or unsupported:
        raise _unfit(directory, "a plain LoRA or IA3", f"{kind} {' '.join(unsupported)}".strip())
    return config


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    tensors, _ = load_tensors(directory / WEIGHTS)
    return {
        key.removeprefix(PREFIX).replace(".base_layer.", "."): value
        for key, value in tensors.items()
    }


def is_factor(key: str) -> bool:
    """Whether a tensor of an adapter is a factor, as opposed to a head or bias saved whole."""
    return _place(key)[1] in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "ia3_l")


def _place(key: str) -> tuple[str, str]:
    module, _, kind = key.removesuffix(".weight").rpartition(".")
    return module, kind


def _low_rank(
    config: Mapping[str, Any], module: str, kind: str, key: str, tensors: Mapping[str, Tensor]
) -> LowRank:
    down = tensors[key].float()  # [rank, inputs]
    up = tensors[key.replace(kind, kind[:-1] + "B")].float()  # [outputs, rank]
    rank = int(_for_module(config, "rank_pattern", module, config["r"]))
    alpha = float(_for_module(config, "alpha_pattern", module, config["lora_alpha"]))
    up = up * (alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)
    if kind == "lora_embedding_A" or config.get("fan_in_fan_out"):
        return LowRank(down.t(), up.t())  # the weight is stored [inputs, outputs]
    return LowRank(up, down)


def _for_module(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    for pattern, value in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _unfit(directory: Path, expected: str, found: str) -> InvalidInput:
    return InvalidInput(
        where=str(directory),
        expected=expected,
        found=found,
        remedy="Merge the adapter into its model with PEFT and register the full checkpoint.",
    )
