"""An expert: a fine-tuned checkpoint of one task, its head and its examples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

from merging.errors import InvalidInput
from merging.experts.adapters import AdapterFiles, is_adapter, resized
from merging.experts.checkpoint import Checkpoint, digest_directory
from merging.experts.configuration import parsed_config, read_config
from merging.experts.examples import Split, split_examples
from merging.experts.heads import Head, read_generation
from merging.experts.table_names import TABLES
from merging.experts.tables import read_table
from merging.experts.unnamed import with_labels
from merging.kinds import ModelKind

if TYPE_CHECKING:
    from merging.experts.adapted import Adapted

SINGLE_LABEL = "single_label_classification"


class ExpertFiles:
    """An expert's model as it lies on disk; each part is read once, when it is first asked for.

    What is not as it has to be raises `InvalidInput` then.

    Attributes:
        directory: With a Hugging Face checkpoint or a PEFT adapter.
        base: The checkpoint that it was fine-tuned from, without which an adapter is no model.
    """

    def __init__(self, directory: Path, base: Checkpoint | None = None) -> None:
        self.directory = Path(directory)
        self._base = base
        self._adapted: dict[ModelKind, Adapted] = {}

    @property
    def is_adapter(self) -> bool:
        """Whether it is a PEFT adapter and not a full checkpoint."""
        return is_adapter(self.directory)

    @property
    def base(self) -> Checkpoint:
        """The base of an adapter."""
        if self._base is None:
            raise InvalidInput(
                where=str(self.directory),
                expected="the base that the adapter belongs to",
                found="none",
                remedy="Open it with its base: ExpertFiles(folder, Checkpoint.open(base)).",
            )
        return self._base

    @property
    def has_config(self) -> bool:
        """Whether the task model's own configuration is there; adapters are saved without."""
        return not self.is_adapter or (self.directory / "config.json").exists()

    def label_hint(self, complaint: str) -> str:
        """What to do besides, where a complaint about labels comes from names that nobody gave."""
        if self.has_config or "LABEL_0" not in complaint:
            return ""
        return (
            " The adapter does not say what its labels are called: put its model's configuration "
            "beside it with `model.config.save_pretrained(folder)`, or have indices in the table."
        )

    @cached_property
    def config(self) -> dict[str, Any]:
        """The task model's configuration; an adapter that has none has its base's."""
        if not self.has_config:
            return self.base.config
        config = read_config(self.directory)
        if self.is_adapter:
            ours, theirs = (c.get("vocab_size") for c in (self.base.config, config))
            if isinstance(ours, int) and isinstance(theirs, int) and ours != theirs:
                raise resized(self.directory, ours, theirs)
        return config

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

    def adapted(self, kind: ModelKind) -> Adapted:
        """The adapter on its base."""
        if kind not in self._adapted:
            from merging.experts.adapted import put_on  # PEFT takes seconds to import

            self._adapted[kind] = put_on(self.adapter, self.base, self.task_config(kind), kind)
        return self._adapted[kind]

    def task_config(self, kind: ModelKind) -> dict[str, Any]:
        """The configuration with labels; LABEL_0 and so on where nobody named them."""
        if self.has_config or not kind.has_head:
            return self.config
        return with_labels(self.config, self.adapter.tensors, kind)


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
    task: str,
    model: Path | ExpertFiles,
    kind: ModelKind,
    *,
    base: Checkpoint | None = None,
    examples: Path | None = None,
    settled: bool = False,
) -> Expert:
    """Reads head and examples of an expert; the weights stay in their files.

    Args:
        task: The ML task's name.
        model: Folder of a Hugging Face checkpoint or PEFT adapter, or what was opened of it already.
        kind: The kind of model.
        base: The base of a folder that may hold an adapter.
        examples: The examples table, where it does not lie in the folder.
        settled: Whether it was merged already, perhaps under rules for tables that asked for less.

    Raises:
        InvalidInput: Unreadable files, a malformed table, or a classifier that cannot be used.
    """
    files = model if isinstance(model, ExpertFiles) else ExpertFiles(model, base)
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
    try:
        split = split_examples(read_table(table), kind, head.labels, settled=settled)
    except InvalidInput as error:
        remedy = error.remedy + files.label_hint(str(error))
        raise InvalidInput(
            where=error.where, expected=error.expected, found=error.found, remedy=remedy
        ) from error
    sides = f"{split.calibration.digest}{split.gate.digest}"
    fingerprint = hashlib.sha256(f"{digest_directory(directory)}{sides}".encode()).hexdigest()
    return Expert(task, files, head, split, fingerprint)


def read_head(task: str, files: ExpertFiles, kind: ModelKind) -> Head:
    """The head of an expert.

    Raises:
        InvalidInput: Unreadable files, an adapter that does not go on its base, or a classifier
            without label names, or one that does not give just one of them.
    """
    directory, config = files.directory, files.task_config(kind)
    if not kind.has_head:  # BART's configuration, for one, has label names all the same
        unlabelled = {k: v for k, v in config.items() if k not in ("id2label", "label2id")}
        # PEFT keeps no settings of its own: an adapter writes as its base does.
        writer = files.base.directory if files.is_adapter else directory
        return Head(task, unlabelled, generation=read_generation(writer))
    if files.is_adapter:
        tensors = files.adapted(kind).head
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
