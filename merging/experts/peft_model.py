"""A task model with an adapter on it, as PEFT puts it there, read off tensor by tensor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from merging.errors import InvalidInput
from merging.experts.adapters import MERGE_IT, AdapterFiles, resized
from merging.experts.forms import Form
from merging.experts.layers import ADAPTER, NotExact, unwrapped

PREFIX = "base_model.model."  # What PEFT puts before the names of a model's tensors.
# What PEFT raises where an adapter and a model do not go together.
PEFT_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


class Place(NamedTuple):
    """One parameter or buffer of a task model.

    Attributes:
        before: What it was.
        whole: What the adapter brings instead; None where it leaves that alone.
        form: What PEFT's layers add to it.
    """

    before: Tensor
    whole: Tensor | None
    form: Form | None


def places_with(files: AdapterFiles, model: PreTrainedModel) -> Mapping[str, Place]:
    """Lets PEFT put an adapter on a model; gives what became of all that the model saves, by name.

    Args:
        files: The adapter.
        model: Its task model, which is not to be used afterwards. Tensors may be stand-ins.

    Raises:
        InvalidInput: They do not go together, or a layer of PEFT is no plain change of a tensor.
    """
    # An object is the same after PEFT has written to it, while its detached twin shows what it was.
    before = {path: (tensor, tensor.detach()) for path, tensor, _ in _walk(model, "")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What PEFT warns of is an error here, or exact.
            for buffer in model.buffers():
                buffer.data = buffer.contiguous()  # PEFT writes to its copies of them.
            written = _put(files, model, {id(tensor) for tensor, _ in before.values()})
        after = {path: (tensor, form) for path, tensor, form in _walk(model, "")}
    except NotExact as error:
        raise InvalidInput(
            where=str(files.directory),
            expected="layers of PEFT that add to a tensor, or scale it",
            found=str(error),
            remedy=MERGE_IT,
        ) from error
    except PEFT_ERRORS as error:
        raise InvalidInput(
            where=str(files.directory),
            expected="an adapter that PEFT can put on the base",
            found=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            remedy="Register it for the base that it was trained on.",
        ) from error
    places = {}
    for path, (old, was) in before.items():
        tensor, form = after[path]
        brought = tensor is not old or id(old) in written
        places[path] = Place(was, tensor.detach() if brought else None, form)
    return places


def _walk(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor, Form | None]]:
    module, forms = unwrapped(module)
    transient = module._non_persistent_buffers_set  # noqa: SLF001 - nothing public tells it
    buffers = [(k, b) for k, b in module.named_buffers(recurse=False) if k not in transient]
    for name, tensor in [*module.named_parameters(recurse=False), *buffers]:
        yield f"{path}{name}", tensor, forms.pop(name, None)
    if forms:
        raise NotExact(f"one that adds to {path}{next(iter(forms))}, which the model does not have")
    for name, child in module.named_children():
        yield from _walk(child, f"{path}{name}.")


def _put(files: AdapterFiles, model: PreTrainedModel, known: set[int]) -> set[int]:
    """Loads the adapter; gives the ids of those of the model's own tensors that it overwrote."""
    config = PeftConfig.from_peft_type(**files.config)
    config.inference_mode = True
    adapted = get_peft_model(model, config)
    _check_shapes(files, model, adapted)
    written = set()
    for key, parameter in adapted.named_parameters(remove_duplicate=False):
        if key in files.tensors and id(parameter) in known:
            parameter.data = parameter.data.clone()  # A stand-in has no memory to write to.
            written.add(id(parameter))
    result: Any = set_peft_model_state_dict(adapted, dict(files.tensors))
    state = adapted.state_dict()
    loaded = {state[key].data_ptr() for key in set(state) - set(result.missing_keys)}
    missing = [
        key  # that is no second name of something loaded
        for key in result.missing_keys
        if f".{ADAPTER}" in key and state[key].data_ptr() not in loaded
    ]
    strangers = [key for key in result.unexpected_keys if not _is_copy(key, files.tensors)]
    for keys, what in ((missing, "none for"), (strangers, "one that has no place:")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InvalidInput(
                where=str(files.directory),
                expected="one tensor for each place that the adapter's configuration names",
                found=f"{what} {keys[0].removeprefix(PREFIX)}{more}",
                remedy="Save the adapter again, from the model that it was trained in.",
            )
    return written


def _is_copy(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor was saved twice, as PEFT does with the biases of a head under `bias="all"`."""
    other = tensors.get(key.replace(".modules_to_save.", "."))
    return other is not None and torch.equal(tensors[key], other)


def _check_shapes(files: AdapterFiles, model: PreTrainedModel, adapted: PeftModel) -> None:
    own = adapted.state_dict()
    own |= get_peft_model_state_dict(adapted, save_embedding_layers=False)
    words = getattr(model.config.get_text_config(), "vocab_size", None)
    for key, tensor in files.tensors.items():
        ours, theirs = list(own.get(key, tensor).shape), list(tensor.shape)
        if ours == theirs:
            continue
        differing = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
        if len(ours) == len(theirs) and [pair[0] for pair in differing] == [words]:
            raise resized(files.directory, *differing[0])
        raise InvalidInput(
            where=str(files.directory),
            expected=f"{key.removeprefix(PREFIX)} of shape {ours}, as the task model has it",
            found=f"shape {theirs}",
            remedy="Register it for the base that it was trained on.",
        )
