"""Whether an expert fits its base, found out before anything is merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_MAPPING

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.expert import ExpertFiles, read_head
from merging.jsonfile import refuse_pointers
from merging.kinds import ModelKind
from merging.models.folder import COMPANIONS
from merging.preflight.configurations import compare_configurations
from merging.preflight.mismatch import Mismatch
from merging.preflight.values import check_values
from merging.serving import NotWhole, TaskError, model_class
from merging.vectors.deltas import source_of
from merging.vectors.layout import Layout

DEQUANTIZE = (
    "Load it with transformers, call dequantize() and save it again in the precision that it was "
    "trained in."
)
UNMERGED = (
    "PEFT's layers are still in it: call merge_and_unload() and save what that gives, or register the "
    "adapter that PEFT's own save_pretrained writes."
)
ONLY_THOSE = (
    "The merged model has the base's tensors and no others: save the expert from the class that the base "
    "has, with weights tied where the base's are, or give the family a base that has this tensor too."
)
TRAINED_ON = (
    "An adapter is added to its base in full precision: take quantization_config out of the config.json "
    "beside the adapter, where it tells of the model that it was trained on."
)
NAMES = "Correct id2label and label2id in config.json to what the expert was trained with."
RENAME = (
    "If it is a {kind} after all, save it from {cls} or name that class in its config.json; the head of "
    "another class cannot be merged here."
)


def check_expert(base: Checkpoint, files: ExpertFiles, kind: ModelKind) -> tuple[Mismatch, ...]:
    """Everything about an expert that keeps it from being merged; nothing where it fits.

    Configurations and headers are compared first; values are read only where those agree.

    Args:
        base: The base checkpoint.
        files: The expert's model, a full checkpoint or a PEFT adapter.
        kind: The kind of model.
    """
    found: list[Mismatch] = []
    try:
        for _, mismatches in comparisons(base, files, kind):
            found += mismatches
        if not found:
            found += check_task_model(base, files, kind)
    except InvalidInput as error:
        return (Mismatch(Path(error.where).name, error.expected, error.found, error.remedy),)
    return tuple(found)


def comparisons(
    base: Checkpoint, files: ExpertFiles, kind: ModelKind
) -> Iterator[tuple[str, Iterator[Mismatch]]]:
    """What of an expert is compared with its base before any value is read, and each difference."""
    yield "class", _classes(files, kind)
    yield "configuration", compare_configurations(base, files, kind)
    if not files.is_adapter:
        yield "tensors", _headers(base, files.checkpoint, kind)


def _classes(files: ExpertFiles, kind: ModelKind) -> Iterator[Mismatch]:
    """What a configuration says of the whole folder: its class, and whether weights are numbers."""
    refuse_pointers(files.directory, COMPANIONS)
    config = files.config
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "quantized weights")
        expected = "weights of fp32, fp16 or bf16"
        remedy = TRAINED_ON if files.is_adapter else DEQUANTIZE
        yield Mismatch("config.quantization_config", expected, f"{method}", remedy)
    if kind.has_head and (wrong := _contradiction(files)):
        expected = "names by the place of their logit, counted from 0, alike in both directions"
        yield Mismatch("config.id2label", expected, wrong, NAMES)
    named = config.get("architectures") or []
    try:
        expected_class, parsed = model_class(config, kind)
    except TaskError:
        return  # There is no such class at all, which is said where the model is built.
    backbone: Any = MODEL_MAPPING.get(type(parsed), ())
    bare = {c.__name__ for c in (backbone if isinstance(backbone, tuple) else (backbone,))}
    # An adapter's config.json is often its base's, and PEFT says by itself what the task is.
    if named and not files.is_adapter and not {expected_class.__name__, *bare} & set(named):
        remedy = RENAME.format(cls=expected_class.__name__, kind=kind)
        yield Mismatch("config.architectures", expected_class.__name__, ", ".join(named), remedy)


def _contradiction(files: ExpertFiles) -> str:
    """How label names leave open which class is which; nothing if they do not."""
    names: dict[Any, str] = dict(files.parsed.id2label or {})
    if sorted(names) != list(range(len(names))):
        return f"the numbers {sorted(names)[:10]}"
    places = {name: number for number, name in names.items()}
    for name, number in (files.config.get("label2id") or {}).items():
        if name in places and str(places[name]) != str(number):
            return f"{name!r:.80} as {places[name]}, and as {number} in label2id"
    return ""


def _headers(base: Checkpoint, expert: Checkpoint, kind: ModelKind) -> Iterator[Mismatch]:
    for name in backbone_names(expert, kind):
        theirs = expert.tensors[name]
        if name not in base.tensors:
            continue  # It may be the head's own, or a copy.
        ours = base.tensors[name]
        if ours.shape != theirs.shape:
            yield Mismatch(name, f"shape {list(ours.shape)}", f"shape {list(theirs.shape)}")
        elif ours.dtype.is_floating_point != theirs.dtype.is_floating_point:
            yield Mismatch(name, str(ours.dtype), str(theirs.dtype))


def check_task_model(base: Checkpoint, files: ExpertFiles, kind: ModelKind) -> Iterator[Mismatch]:
    """Tensors that the task model needs and the expert, or the base, does not have; then values."""
    head = read_head("task", files, kind)
    try:
        layout = Layout.of(base if files.is_adapter else files.checkpoint, head, kind)
    except NotWhole as error:
        wrapped = not files.is_adapter and any(
            ".base_layer." in n for n in files.checkpoint.tensors
        )
        yield Mismatch(
            "model", "a whole task model", error.found, UNMERGED if wrapped else error.remedy
        )
        return
    if not files.is_adapter:
        yield from _newcomers(base, files.checkpoint, layout, kind)
    source = source_of(base, files, kind)
    yield from check_values(base, source, head, layout, kind)


def _newcomers(
    base: Checkpoint, expert: Checkpoint, layout: Layout, kind: ModelKind
) -> Iterator[Mismatch]:
    """Weights that the base does not have and that are nobody's: no head's, and no copy of tied ones."""
    if kind.has_head:
        strange = [name for name in expert.newcomers(base) if name not in layout.whole]
    else:
        new = [
            n
            for n, t in expert.tensors.items()
            if t.dtype.is_floating_point and n not in base.tensors
        ]
        strange = [name for name in new if name in layout.whole or not _is_copy(expert, name)]
    for name in strange:
        found = f"one of shape {list(expert.tensors[name].shape)}, which the base does not have"
        yield Mismatch(name, "only tensors that the base has too", found, ONLY_THOSE)


def _is_copy(expert: Checkpoint, name: str) -> bool:
    """Whether a checkpoint has a tensor a second time, as some are saved whose weights are tied."""
    shape, tensor = expert.tensors[name].shape, expert.read(name)
    others = [n for n, info in expert.tensors.items() if n != name and info.shape == shape]
    return any(torch.equal(expert.read(other), tensor) for other in others)
