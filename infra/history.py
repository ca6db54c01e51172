"""Merged models as people ask for them: their files and their scores."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from infra.errors import Refused
from infra.queue import MergeQueue
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
    model = find_recorded(queue, number, entries)
    manifest = Manifest.read(queue.store, model.location, model.manifest_sha256)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        target = Path(scratch) / "model"
        download_model(queue.store, model.location, manifest, target)
        target.rename(directory)
    return model


def find_recorded(queue: MergeQueue, number: int, entries: Sequence[Promotion]) -> Recorded:
    """A version as the log has it or, where it was never deployed, as it was judged.

    MLflow is asked only for what earlier releases of the queue registered.

    Raises:
        Corrupt: The queue never built such a version.
        InvalidInput: There is no such version.
    """
    for entry in reversed(entries):
        if entry.version == number:
            return entry.model
    page = queue.pages.find(queue.name, number)
    source = page.source if page else queue.registry.merged.get(queue.name, number).source
    return queue.attempts.judged(number, source)[0]


def gate_scores(queue: MergeQueue, model: Recorded) -> dict[str, float]:
    """The score of each task at the decision on a model, as the queue recorded it.

    Raises:
        Corrupt: The record cannot be read.
    """
    report = queue.attempts.report(model)
    decisions = report.tasks if report else ()
    return {d.task: d.candidate.value for d in decisions if d.candidate is not None}
