"""Merged models as people ask for them: their files and their scores."""

from __future__ import annotations

import tempfile
from pathlib import Path

from infra.errors import Refused
from infra.queue import MergeQueue
from infra.registry.merged import MergedVersion
from infra.registry.metrics import task_metric
from infra.storage.manifest import Manifest, download_model


def pull_model(queue: MergeQueue, directory: Path, version: int | None = None) -> MergedVersion:
    """Downloads a merged model to a new directory.

    Raises:
        Refused: Nothing is deployed, or the directory exists.
        Corrupt: A file is not what the manifest recorded; nothing is left behind.
    """
    newest = queue.promotions.newest()
    number = version if version is not None else newest.version if newest else None
    if number is None:
        raise Refused(
            f"Family {queue.name!r} has no deployed model yet.", "Register an expert first."
        )
    if directory.exists():
        raise Refused(f"{directory} exists already.", "Choose a directory that does not.")
    merged = queue.registry.merged.get(queue.name, number)
    deployed = newest is not None and newest.version == number
    digest = newest.manifest_sha256 if newest and deployed else merged.manifest_sha256
    manifest = Manifest.read(queue.store, merged.location, digest)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        target = Path(scratch) / "model"
        download_model(queue.store, merged.location, manifest, target)
        target.rename(directory)
    return merged


def gate_scores(queue: MergeQueue, version: MergedVersion) -> dict[str, float]:
    """The score of each task at the decision, from the candidate's MLflow run."""
    if version.run_id is None:
        return {}
    metrics = queue.registry.runs.metrics(version.run_id)
    manifest = Manifest.read(queue.store, version.location, version.manifest_sha256)
    names = {task: task_metric(task, "candidate") for task in manifest.tasks}
    return {task: metrics[name] for task, name in names.items() if name in metrics}
