"""Whether an expert fits its base, found out before anything is merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles, read_head
from merging.kinds import ModelKind
from merging.preflight.configurations import compare_configurations
from merging.preflight.mismatch import Mismatch
from merging.preflight.readers import compare_image_processors, compare_tokenizers
from merging.preflight.values import check_values
from merging.serving import TaskError
from merging.vectors.deltas import backbone_names, source_of
from merging.vectors.layout import Layout


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
        return (Mismatch(Path(error.where).name, error.expected, error.found),)
    return tuple(found)


def comparisons(
    base: Checkpoint, files: ExpertFiles, kind: ModelKind
) -> Iterator[tuple[str, Iterator[Mismatch]]]:
    """What of an expert is compared with its base before any value is read, and each difference."""
    yield "configuration", compare_configurations(base.config, files.config)
    if kind.reads_images:
        yield "image processor", compare_image_processors(base.directory, files.directory)
    else:
        yield "tokenizer", compare_tokenizers(base.directory, files.directory)
    if not files.is_adapter:
        yield "tensors", _headers(base, files.checkpoint, kind)


def _headers(base: Checkpoint, expert: Checkpoint, kind: ModelKind) -> Iterator[Mismatch]:
    for name in backbone_names(expert, kind):
        theirs = expert.tensors[name]
        if name not in base.tensors:
            if theirs.dtype.is_floating_point:
                yield Mismatch(name, "no such tensor", f"shape {list(theirs.shape)}")
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
        hint = " PEFT leaves out what modules_to_save does not name." if files.is_adapter else ""
        yield Mismatch("model", "a whole task model", f"{error}{hint}")
        return
    source = source_of(base, files, head, layout.parameters)
    yield from check_values(base, source, head, layout, kind)
