"""An expert: a fine-tuned checkpoint of one task, its head and its examples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from merging.errors import InvalidInput
from merging.experts.adapters import adapter_tensors, is_adapter, is_factor
from merging.experts.checkpoint import (
    Checkpoint,
    backbone_prefix,
    digest_directory,
    parsed_config,
    read_config,
)
from merging.experts.examples import ModelKind, Split, read_table, split_examples
from merging.experts.heads import Head

SINGLE_LABEL = "single_label_classification"
TABLES = ("examples.parquet", "examples.jsonl")


@dataclass(frozen=True)
class Expert:
    """One expert, ready to be merged.

    Attributes:
        digest: SHA-256 of its checkpoint directory and its examples.
    """

    task: str
    directory: Path
    head: Head
    split: Split
    digest: str


def open_expert(
    task: str, directory: Path, kind: ModelKind, *, examples: Path | None = None
) -> Expert:
    """Reads head and examples of an expert directory; the weights stay in their files.

    Args:
        task: The ML task's name.
        directory: Hugging Face checkpoint or PEFT adapter.
        kind: The kind of model.
        examples: The examples table, where it does not lie in the directory.

    Raises:
        InvalidInput: Unreadable files, a malformed table, or a classifier that cannot be used.
    """
    directory = Path(directory)
    head = read_head(task, directory, kind)
    table = examples or next((directory / t for t in TABLES if (directory / t).exists()), None)
    if table is None:
        raise InvalidInput(
            where=str(directory),
            expected=f"an examples table ({' or '.join(TABLES)})",
            found="none",
            remedy="Put one beside the weights.",
        )
    split = split_examples(read_table(table), kind, head.labels)
    sides = f"{split.calibration.digest}{split.gate.digest}"
    digest = hashlib.sha256(f"{digest_directory(directory)}{sides}".encode()).hexdigest()
    return Expert(task, directory, head, split, digest)


def read_head(task: str, directory: Path, kind: ModelKind) -> Head:
    """The head of an expert directory.

    Raises:
        InvalidInput: Unreadable files, no config.json (an adapter needs its model's beside it), or a
            classifier without label names, or one that does not give just one of them.
    """
    config = read_config(directory)
    if kind == "generator":  # BART's configuration, for one, has label names all the same
        return Head(task, {k: v for k, v in config.items() if k not in ("id2label", "label2id")})
    if is_adapter(directory):
        prefix = backbone_prefix(directory, parsed_config(directory, config))
        tensors = {
            key: tensor
            for key, tensor in sorted(adapter_tensors(directory).items())
            if not key.startswith(prefix) and not is_factor(key)
        }
    else:
        checkpoint = Checkpoint.open(directory)
        tensors = {name: checkpoint.read(name) for name in sorted(checkpoint.head)}
    head = Head(task, config, tensors)
    if not head.labels:
        raise InvalidInput(
            where=str(directory / "config.json"),
            expected="the label names of a classifier (id2label)",
            found="none",
            remedy="Set id2label and label2id in the model's configuration and save it again.",
        )
    problem = config.get("problem_type") or SINGLE_LABEL
    if len(head.labels) < 2 or problem != SINGLE_LABEL:
        raise InvalidInput(
            where=str(directory / "config.json"),
            expected="a classifier that gives one of several labels",
            found=f"{len(head.labels)} labels, problem_type {problem}",
            remedy="Regression and several labels at once cannot be merged yet.",
        )
    return head
