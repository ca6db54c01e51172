"""PEFT's layers: what each adds to the tensors of the module that it is put around."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners import ia3, lora
from peft.tuners.lora.layer import Conv1d
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from merging.experts.forms import Form, LowRank, Rows, Scaling, Whole

ADAPTER = "default"  # What PEFT calls an adapter that it was given no name for.


class NotExact(Exception):
    """A layer that is no plain change of its module's tensors; says which."""


def unwrapped(module: nn.Module) -> tuple[nn.Module, dict[str, Form]]:
    """The module within PEFT's layers, and what they add to each of its parameters.

    Raises:
        NotExact: What a layer does is not known.
    """
    forms: dict[str, Form] = {}
    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        for name, form in _forms(module):
            if name in forms:
                raise NotExact(f"several that change one {name} ({type(module).__name__})")
            forms[name] = form
        module = _inner(module)
    return module, forms


def _inner(layer: Any) -> nn.Module:
    if isinstance(layer, ModulesToSaveWrapper):
        inner: nn.Module = layer.modules_to_save[ADAPTER]
    elif isinstance(layer, TrainableTokensWrapper):
        inner = layer.token_adapter.base_layer
    else:
        inner = layer.base_layer
    return inner


def _forms(layer: Any) -> Iterator[tuple[str, Form]]:
    """What one layer adds, by the names of the parameters of the module within."""
    kind = type(layer)
    if kind is ModulesToSaveWrapper:
        return
    if kind is TrainableTokensWrapper:
        tokens = layer.token_adapter
        indices = torch.tensor(tokens.token_indices[ADAPTER], dtype=torch.int64)
        yield "weight", Rows(indices, _fp32(tokens.trainable_tokens_delta[ADAPTER]))
    elif kind in (lora.Linear, lora.Embedding, Conv1d, lora.Conv2d, lora.Conv3d):
        yield from _lora(layer)
    elif kind is lora.ParamWrapper:
        yield layer.parameter_name, Whole(_fp32(layer.get_delta_weight(ADAPTER)))
    elif kind in (ia3.Linear, ia3.Conv2d, ia3.Conv3d):
        yield from _ia3(layer)
    else:
        raise NotExact(f"{kind.__module__}.{kind.__qualname__}")


def _lora(layer: Any) -> Iterator[tuple[str, Form]]:
    if ADAPTER in layer.lora_variant:
        raise NotExact(type(layer.lora_variant[ADAPTER]).__name__)
    scale = layer.scaling[ADAPTER]
    if type(layer) is lora.Embedding:  # stored [inputs, outputs]
        down, up = layer.lora_embedding_A[ADAPTER], layer.lora_embedding_B[ADAPTER]
        yield "weight", LowRank(_fp32(down).t() * scale, _fp32(up).t())
        return
    if getattr(layer.base_layer, "groups", 1) != 1:
        raise NotExact("LoRA on a convolution in groups, which is no convolution in groups itself")
    # [rank, inputs, *kernel] and [outputs, rank, 1, …]; a matrix has no kernel.
    down = _fp32(layer.lora_A[ADAPTER].weight).flatten(1)
    up = _fp32(layer.lora_B[ADAPTER].weight).flatten(1)
    flipped = getattr(layer, "fan_in_fan_out", False)
    yield "weight", LowRank(down.t() * scale, up.t()) if flipped else LowRank(up * scale, down)
    if layer.lora_bias[ADAPTER]:
        yield "bias", Whole(_fp32(layer.lora_B[ADAPTER].bias) * scale)


def _ia3(layer: Any) -> Iterator[tuple[str, Form]]:
    weight = layer.base_layer.weight
    factor = _fp32(layer.ia3_l[ADAPTER]).flatten() - 1
    on_inputs = layer.is_feedforward
    if on_inputs and getattr(layer.base_layer, "groups", 1) != 1:
        raise NotExact("IA3 on the inputs of a convolution in groups")
    flipped = bool(getattr(layer, "fan_in_fan_out", False)) and weight.ndim == 2
    axis = int(on_inputs != flipped)
    by_number = factor.repeat_interleave(weight[0, 0].numel()) if axis else factor
    yield "weight", Scaling(by_number, axis)
    if not on_inputs and layer.base_layer.bias is not None:
        yield "bias", Scaling(factor, axis=0)


def _fp32(tensor: Tensor) -> Tensor:
    return tensor.detach().float()
