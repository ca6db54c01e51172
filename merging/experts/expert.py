"""An expert: a fine-tuned checkpoint of one task, its head and its examples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from merging.errors import InvalidInput
from merging.experts.adapters import AdapterFiles, is_adapter, is_factor
from merging.experts.checkpoint import Checkpoint, digest_directory
from merging.experts.configuration import backbone_prefix, parsed_config, read_config
from merging.experts.examples import Split, split_examples
from merging.experts.heads import Head
from merging.experts.table_names import TABLES
from merging.experts.tables import read_table
from merging.kinds import ModelKind
from merging.serving import read_generation

SINGLE_LABEL = "single_label_classification"


class ExpertFiles:
    """An expert's model as it lies on disk; each part is read once, when it is first asked for.

    What is not as it has to be raises `InvalidInput` then.

    Attributes:
        directory: With a Hugging Face checkpoint, or a PEFT adapter beside its model's config.json.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)

    @property
    def is_adapter(self) -> bool:
        """Whether it is a PEFT adapter and not a full checkpoint."""
        return is_adapter(self.directory)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The task model's configuration."""
        return read_config(self.directory)

    @cached_property
    def parsed(self) -> PretrainedConfig:
        """What transformers makes of the configuration, defaults filled in."""
        return parsed_config(self.directory, self.config)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The full checkpoint; an adapter has none."""
        return Checkpoint.open(self.directory)

    @cached_property
    def adapter(self) -> AdapterFiles:
        """The adapter; a full checkpoint has none."""
        return AdapterFiles.open(self.directory)


@dataclass(frozen=True)
class Expert:
    """One expert, ready to be merged.

    Attributes:
        fingerprint: SHA-256 of its model's folder and its examples; work files are named by it.
    """

    task: str
    files: ExpertFiles
    head: Head
    split: Split
    fingerprint: str

    def on(self, base: Checkpoint, kind: ModelKind) -> Expert:
        """The expert on a base: trained tensors that the base does not have belong to its own head.

        A base that was saved from a masked language model has no pooler, for one; each task's is
        then as new as its classifier.
        """
        if self.files.is_adapter or not kind.has_head:
            return self
        own = self.files.checkpoint
        new = [
            name for name in own.newcomers(base) if own.tensors[name].key not in self.head.tensors
        ]
        if not new:
            return self
        tensors = {**self.head.tensors, **{own.tensors[name].key: own.read(name) for name in new}}
        return replace(self, head=replace(self.head, tensors=tensors))


def open_expert(
    task: str, model: Path | ExpertFiles, kind: ModelKind, *, examples: Path | None = None
) -> Expert:
    """Reads head and examples of an expert; the weights stay in their files.

    Args:
        task: The ML task's name.
        model: Folder of a Hugging Face checkpoint or PEFT adapter, or what was opened of it already.
        kind: The kind of model.
        examples: The examples table, where it does not lie in the folder.

    Raises:
        InvalidInput: Unreadable files, a malformed table, or a classifier that cannot be used.
    """
    files = model if isinstance(model, ExpertFiles) else ExpertFiles(model)
    directory = files.directory
    head = read_head(task, files, kind)
    table = examples or next((directory / t for t in TABLES if (directory / t).exists()), None)
    if table is None:
        raise InvalidInput(
            where=str(directory),
            expected=f"an examples table ({', '.join(TABLES)})",
            found="none",
            remedy="Put one beside the weights.",
        )
    split = split_examples(read_table(table), kind, head.labels)
    sides = f"{split.calibration.digest}{split.gate.digest}"
    fingerprint = hashlib.sha256(f"{digest_directory(directory)}{sides}".encode()).hexdigest()
    return Expert(task, files, head, split, fingerprint)


def read_head(task: str, files: ExpertFiles, kind: ModelKind) -> Head:
    """The head of an expert.

    Raises:
        InvalidInput: Unreadable files, no config.json (an adapter needs its model's beside it), or a
            classifier without label names, or one that does not give just one of them.
    """
    directory, config = files.directory, files.config
    if not kind.has_head:  # BART's configuration, for one, has label names all the same
        unlabelled = {k: v for k, v in config.items() if k not in ("id2label", "label2id")}
        return Head(task, unlabelled, generation=read_generation(directory))
    if files.is_adapter:
        prefix = backbone_prefix(directory, files.parsed)
        tensors = {
            key: tensor
            for key, tensor in sorted(files.adapter.tensors.items())
            if not key.startswith(prefix) and not is_factor(key)
        }
    else:
        tensors = {name: files.checkpoint.read(name) for name in sorted(files.checkpoint.head)}
    # transformers has default names for labels, and does not write those of two.
    names = {str(number): name for number, name in (files.parsed.id2label or {}).items()}
    head = Head(task, config if config.get("id2label") else {**config, "id2label": names}, tensors)
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
