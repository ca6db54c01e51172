"""Merged models as people ask for them: their files and their scores."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from infra.errors import Refused
from infra.queue import MergeQueue
from infra.registry.merged import MergedVersion
from infra.registry.metrics import task_metric
from infra.storage.manifest import Manifest, download_model
from infra.storage.promotions import Promotion, Recorded


def pull_model(queue: MergeQueue, directory: Path, version: int | None = None) -> Recorded:
    """Downloads a merged model to a new directory.

    Raises:
        Refused: Nothing is deployed, or the directory exists.
        Corrupt: A file is not what was recorded, or the queue never built that version; nothing is
            left behind.
    """
    entries = queue.promotions.entries()
    number = version if version is not None else entries[-1].version if entries else None
    if number is None:
        raise Refused(
            f"Family {queue.name!r} has no deployed model yet.", "Register an expert first."
        )
    if directory.exists():
        raise Refused(f"{directory} exists already.", "Choose a directory that does not.")
    model = _recorded(queue, number, entries)
    manifest = Manifest.read(queue.store, model.location, model.manifest_sha256)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        target = Path(scratch) / "model"
        download_model(queue.store, model.location, manifest, target)
        target.rename(directory)
    return model


def _recorded(queue: MergeQueue, number: int, entries: Sequence[Promotion]) -> Recorded:
    """A version as the log has it or, where it was never deployed, as it was judged."""
    for entry in reversed(entries):
        if entry.version == number:
            return entry.model
    source = queue.registry.merged.get(queue.name, number).source
    return queue.attempts.judged(number, source)[0]


def gate_scores(queue: MergeQueue, version: MergedVersion) -> dict[str, float]:
    """The score of each task at the decision, from the candidate's MLflow run."""
    if version.run_id is None:
        return {}
    metrics = queue.registry.runs.metrics(version.run_id)
    manifest = Manifest.read(queue.store, version.location, version.manifest_sha256)
    names = {task: task_metric(task, "candidate") for task in manifest.tasks}
    return {task: metrics[name] for task, name in names.items() if name in metrics}
