"""Whether an expert fits its base, found out before anything is merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import MODEL_MAPPING

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint, backbone_names
from merging.experts.expert import ExpertFiles, read_head
from merging.kinds import ModelKind
from merging.preflight.configurations import compare_configurations
from merging.preflight.mismatch import Mismatch
from merging.preflight.values import check_values
from merging.serving import TaskError, model_class
from merging.vectors.deltas import source_of
from merging.vectors.layout import Layout

DEQUANTIZE = (
    "Load it with transformers, call dequantize() and save it again in the precision that it was "
    "trained in."
)
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
    config = files.config
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "quantized weights")
        expected = "weights of fp32, fp16 or bf16"
        yield Mismatch("config.quantization_config", expected, f"{method}", DEQUANTIZE)
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


def _headers(base: Checkpoint, expert: Checkpoint, kind: ModelKind) -> Iterator[Mismatch]:
    for name in backbone_names(expert, kind):
        theirs = expert.tensors[name]
        if name not in base.tensors:
            # Where there are heads, it belongs to the task's own if the task model uses it.
            if theirs.dtype.is_floating_point and not kind.has_head:
                yield _absent(name, expert)
            continue
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
    except TaskError as error:
        yield Mismatch("model", "a whole task model", str(error))
        return
    if not files.is_adapter:
        unused = [n for n in files.checkpoint.newcomers(base) if n not in layout.whole]
        yield from (_absent(name, files.checkpoint) for name in unused)
    source = source_of(base, files, kind)
    yield from check_values(base, source, head, layout, kind)


def _absent(name: str, expert: Checkpoint) -> Mismatch:
    return Mismatch(name, "no such tensor", f"shape {list(expert.tensors[name].shape)}")
