"""Whether an expert fits its base, found out before anything is merged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from merging.checkpoint import Checkpoint
from merging.deltas import backbone_names
from merging.errors import InvalidInput, Mismatch
from merging.examples import ModelKind
from merging.experts import read_head
from merging.serving import TaskError, assemble

# What may differ between a base and its experts: names, heads, dropout, how it was saved.
FREE_KEYS = frozenset(
    [
        "architectures",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "_name_or_path",
        "classifier_dropout",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "dropout_rate",
        "use_cache",
        "gradient_checkpointing",
        "finetuning_task",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "pad_token_id",
        "is_decoder",
        "tie_word_embeddings",
        "position_embedding_type",
    ]
)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model")
LARGEST_CHANGE = 10.0  # ‖τ‖ / ‖θp‖ of a tensor set beyond which it is no fine-tuning of this base


def check_expert(base: Path, expert: Path, kind: ModelKind) -> tuple[Mismatch, ...]:
    """Everything about an expert that keeps it from being merged; nothing where it fits.

    Configurations and headers are compared first; values are read only where those agree.
    """
    try:
        source, found = Checkpoint.open(base), Checkpoint.open(expert)
        mismatches = [*_configurations(source, found), *_tokenizers(base, expert)]
        mismatches += _tensors(source, found, kind)
        if not mismatches:
            mismatches += _task_model(source, expert, kind)
        if not mismatches:
            mismatches += _values(source, found, kind)
    except InvalidInput as error:
        return (Mismatch(Path(error.where).name, error.expected, error.found),)
    return tuple(mismatches)


def _configurations(base: Checkpoint, expert: Checkpoint) -> Iterator[Mismatch]:
    for key in sorted(set(base.config) & set(expert.config) - FREE_KEYS):
        ours, theirs = base.config[key], expert.config[key]
        if ours != theirs:
            yield Mismatch(f"config.{key}", _short(ours), _short(theirs))


def _tokenizers(base: Path, expert: Path) -> Iterator[Mismatch]:
    for name in TOKENIZER_FILES:
        ours, theirs = base / name, expert / name
        if ours.exists() and theirs.exists() and _vocabulary(ours) != _vocabulary(theirs):
            yield Mismatch("tokenizer", f"the base's {name}", "another vocabulary")


def _vocabulary(path: Path) -> str:
    if path.name != "tokenizer.json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    import json

    content = json.loads(path.read_text())
    # Truncation and padding are settings of the last call, not part of the tokenizer.
    kept = {k: v for k, v in content.items() if k not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _tensors(base: Checkpoint, expert: Checkpoint, kind: ModelKind) -> Iterator[Mismatch]:
    for name in backbone_names(expert, kind):
        info = expert.tensors[name]
        if name not in base.tensors:
            if info.dtype.is_floating_point:
                yield Mismatch(name, "no such tensor", f"shape {list(info.shape)}")
        elif base.tensors[name].shape != info.shape:
            expected = f"shape {list(base.tensors[name].shape)}"
            yield Mismatch(name, expected, f"shape {list(info.shape)}")
        elif base.tensors[name].dtype.is_floating_point != info.dtype.is_floating_point:
            yield Mismatch(name, str(base.tensors[name].dtype), str(info.dtype))


def _task_model(base: Checkpoint, directory: Path, kind: ModelKind) -> Iterator[Mismatch]:
    """Missing tensors: what the task model needs and the expert does not bring."""
    head = read_head("task", directory, kind)
    expert = Checkpoint.open(directory)
    tensors: dict[str, Any] = {name: expert.read(name) for name in backbone_names(expert, kind)}
    try:
        assemble(head.config, kind, {**tensors, **head.tensors})
    except TaskError as error:
        yield Mismatch("model", "a whole task model", str(error))


def _values(base: Checkpoint, expert: Checkpoint, kind: ModelKind) -> Iterator[Mismatch]:
    change, size = 0.0, 0.0
    for name in sorted(set(backbone_names(expert, kind)) | set(expert.head)):
        tensor = expert.read(name)
        if not tensor.is_floating_point():
            continue
        if not bool(torch.isfinite(tensor).all()):
            yield Mismatch(name, "finite values", "NaN or infinity")
        elif name in base.tensors:
            ours = base.read(name).float()
            change += float((tensor.float() - ours).square().sum(dtype=torch.float64))
            size += float(ours.square().sum(dtype=torch.float64))
    if change == 0:
        yield Mismatch("task vector", "a difference from the base", "zero: nothing was learned")
    elif change > LARGEST_CHANGE**2 * size:
        found = f"{(change / size) ** 0.5:.1f} times the base" if size else "a base of zeros"
        yield Mismatch("task vector", f"at most {LARGEST_CHANGE:g} times the base", found)


def _short(value: Any) -> str:
    return f"{value!r:.80}"
