"""Promotion: a health check on a fresh download, and then the entry in the log that counts."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import task

from infra.flowrun import run_id
from infra.queue import MergeQueue
from infra.storage.manifest import Manifest, download_model
from infra.storage.promotions import Action, Promotion, Recorded
from tasks.retry import SIDE_EFFECT


@task(**SIDE_EFFECT)
def check_health(queue: MergeQueue, model: Recorded) -> Manifest:
    """Downloads a merged model afresh, compares every digest, loads it and asks it.

    Raises:
        Corrupt: Some file is not what was recorded, or the model answers differently.
    """
    manifest = Manifest.read(queue.store, model.location, model.manifest_sha256)
    with queue.cache.room.scratch() as folder:
        download_model(queue.store, model.location, manifest, folder)
        queue.engine.check_answers(folder)
    return manifest


@task(**SIDE_EFFECT)
def prove_commits(queue: MergeQueue) -> None:
    """Shows before anything is learned that of two promotions one would win.

    Raises:
        Refused: The object store would let both succeed.
    """
    queue.store.prove_create(queue.family.root / "promotions")


@task(**SIDE_EFFECT)
def commit(
    queue: MergeQueue,
    model: Recorded,
    after: Promotion | None,
    action: Action,
    decided_by: str,
    reason: str,
) -> Promotion:
    """Writes the entry that makes a merged model the deployed one.

    Raises:
        Conflict: Another run has changed the deployed model since ``after``.
    """
    return append_entry(queue, model, after, action, decided_by, reason)


def append_entry(
    queue: MergeQueue,
    model: Recorded,
    after: Promotion | None,
    action: Action,
    decided_by: str,
    reason: str,
) -> Promotion:
    """As :func:`commit`, outside of a flow."""
    return queue.promotions.append(
        after,
        version=model.version,
        location=str(model.location),
        manifest_sha256=model.manifest_sha256,
        action=action,
        decided_by=decided_by,
        reason=reason,
        run_id=run_id(),
        time=datetime.now(UTC),
    )
