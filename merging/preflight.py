"""Whether an expert fits its base, found out before anything is merged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles, read_head
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.serving import TaskError
from merging.vectors.deltas import Source, backbone_names, dense_delta, source_of
from merging.vectors.layout import Layout

# These keys of a configuration may differ between a base and its experts: they say names, heads,
# dropout, or how it was saved.
FREE_KEYS = frozenset(
    {
        *("architectures", "id2label", "label2id", "num_labels", "problem_type"),
        *("transformers_version", "dtype", "torch_dtype", "_name_or_path", "use_cache"),
        *("classifier_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"),
        *("dropout_rate", "gradient_checkpointing", "pad_token_id", "return_dict", "is_decoder"),
        *("output_hidden_states", "output_attentions", "finetuning_task"),
        "position_embedding_type",
    }
)
TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)
PREPROCESSOR = "preprocessor_config.json"
IMAGE_KEYS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
# A task vector longer than so many times its base, ‖τ‖ / ‖θp‖ over all tensors, is no fine-tuning.
LARGEST_CHANGE = 10.0


class Mismatch(NamedTuple):
    """One difference between a base and an expert."""

    tensor: str
    expected: str
    found: str


def check_base(files: Collection[str], kind: ModelKind, where: str) -> None:
    """Whether a base's files are a checkpoint that can read inputs, by their names alone.

    Without vocabulary transformers would make up a tokenizer that knows no word, and say nothing.

    Raises:
        InvalidInput: Weights, configuration, or tokenizer or image processor are missing.
    """
    readers = (PREPROCESSOR,) if kind.reads_images else TOKENIZER_FILES
    has_weights = any(name.endswith(".safetensors") for name in files)
    if "config.json" not in files or not has_weights or not set(readers).intersection(files):
        raise InvalidInput(
            where=where,
            expected=f"a checkpoint: config.json, safetensors, and one of {', '.join(readers)}",
            found=", ".join(sorted(files)) or "nothing of the kind",
            remedy="Give the folder that `save_pretrained` of the model and of its tokenizer or image "
            "processor wrote.",
        )


def check_expert(base: Checkpoint, files: ExpertFiles, kind: ModelKind) -> tuple[Mismatch, ...]:
    """Everything about an expert that keeps it from being merged; nothing where it fits.

    Configurations and headers are compared first; values are read only where those agree.

    Args:
        base: The base checkpoint.
        files: The expert's model, a full checkpoint or a PEFT adapter.
        kind: The kind of model.
    """
    try:
        mismatches = [*_configurations(base.config, files.config)]
        mismatches += _tokenizers(base.directory, files.directory)
        mismatches += _image_processors(base.directory, files.directory)
        if not files.is_adapter:
            mismatches += _headers(base, files.checkpoint, kind)
        if not mismatches:
            mismatches += _task_model(base, files, kind)
    except InvalidInput as error:
        return (Mismatch(Path(error.where).name, error.expected, error.found),)
    return tuple(mismatches)


def _configurations(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Mismatch]:
    for key in sorted(set(ours) & set(theirs) - FREE_KEYS):
        if ours[key] != theirs[key]:
            yield Mismatch(f"config.{key}", f"{ours[key]!r:.80}", f"{theirs[key]!r:.80}")


def _tokenizers(base_dir: Path, expert_dir: Path) -> Iterator[Mismatch]:
    for name in TOKENIZER_FILES:
        ours, theirs = base_dir / name, expert_dir / name
        if ours.exists() and theirs.exists() and _vocabulary(ours) != _vocabulary(theirs):
            yield Mismatch("tokenizer", f"the base's {name}", "another vocabulary")


def _image_processors(base_dir: Path, expert_dir: Path) -> Iterator[Mismatch]:
    """The merged model prepares images as the base does, so experts must have been trained on that."""
    if not all((directory / PREPROCESSOR).exists() for directory in (base_dir, expert_dir)):
        return
    try:
        ours, theirs = (
            json.loads(
                AutoImageProcessor.from_pretrained(directory, backend="pil").to_json_string()
            )
            for directory in (base_dir, expert_dir)
        )
    except (OSError, ValueError) as error:
        yield Mismatch(PREPROCESSOR, "a readable image processor", str(error)[:200])
        return
    for key in IMAGE_KEYS:
        if ours.get(key) != theirs.get(key):
            yield Mismatch(f"preprocessor.{key}", f"{ours.get(key)!r}", f"{theirs.get(key)!r}")


def _vocabulary(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        try:
            parsed = json.loads(content)
        except ValueError:
            return f"unreadable {hashlib.sha256(content).hexdigest()}"
        # Truncation and padding are settings of the last call, not part of the tokenizer.
        kept = {k: v for k, v in parsed.items() if k not in ("truncation", "padding")}
        content = json.dumps(kept, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


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


def _task_model(base: Checkpoint, files: ExpertFiles, kind: ModelKind) -> Iterator[Mismatch]:
    """Tensors that the task model needs and the expert, or the base, does not have; then values."""
    head = read_head("task", files, kind)
    try:
        layout = Layout.of(base if files.is_adapter else files.checkpoint, head, kind)
    except TaskError as error:
        hint = " PEFT leaves out what modules_to_save does not name." if files.is_adapter else ""
        yield Mismatch("model", "a whole task model", f"{error}{hint}")
        return
    source = source_of(base, files, head, layout.parameters)
    yield from _values(base, source, head, layout, kind)


def _values(
    base: Checkpoint, source: Source, head: Head, layout: Layout, kind: ModelKind
) -> Iterator[Mismatch]:
    for name, tensor in head.tensors.items():
        if not _finite(tensor):
            yield Mismatch(name, "finite values", "NaN or infinity")
    change, size, whole = 0.0, 0.0, True
    for name in backbone_names(base, kind):
        if not base.tensors[name].dtype.is_floating_point:
            continue
        delta = dense_delta(source.delta(name), base, name)
        size += float(base.read(name).float().square().sum(dtype=torch.float64))
        if delta is None:
            continue
        if not _finite(delta):
            whole = False
            yield Mismatch(name, "finite values", "NaN or infinity")
        if name not in layout.whole and bool(torch.count_nonzero(delta)):
            change_lost = "changed, and made into another parameter when transformers loads it"
            yield Mismatch(name, "the base's values, or a parameter of the model", change_lost)
        change += float(delta.square().sum(dtype=torch.float64))
    if whole and change == 0:
        yield Mismatch("task vector", "a difference from the base", "zero: nothing was learned")
    elif whole and change > LARGEST_CHANGE**2 * size:
        ratio = f"{(change / size) ** 0.5:.1f} times the base" if size else "a base of zeros"
        yield Mismatch("task vector", f"at most {LARGEST_CHANGE:g} times the base", ratio)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
