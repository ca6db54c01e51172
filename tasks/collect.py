"""Removing from the object store what nothing needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prefect import get_run_logger, task
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from infra.errors import Unreadable
from infra.garbage import Unneeded, find_unneeded, needed_now
from infra.queue import MergeQueue
from infra.storage.store import S3Uri
from tasks.retry import SIDE_EFFECT

_SEEN = TypeAdapter(dict[str, AwareDatetime])


@dataclass(frozen=True)
class Garbage:
    """What nothing needs.

    Attributes:
        unneeded: What it is.
        goes: From when on it may be removed.
        removed: Whether it was.
    """

    unneeded: Unneeded
    goes: datetime
    removed: bool = False


@task(**SIDE_EFFECT)
def find_garbage(queue: MergeQueue, now: datetime, days: int) -> tuple[Garbage, ...]:
    """Everything that nothing needs, with the time from which it may be removed.

    Raises:
        Refused: See :func:`infra.garbage.find_unneeded`.
    """
    unneeded, left_alone = find_unneeded(queue)
    if left_alone:
        get_run_logger().warning(left_alone)
    seen = _seen(queue)
    keep = timedelta(days=days)
    return tuple(Garbage(found, seen.get(found.path, now) + keep) for found in unneeded)


@task(**SIDE_EFFECT)
def remember_garbage(queue: MergeQueue, garbage: Sequence[Garbage], now: datetime) -> None:
    """Writes down since when each of these is not needed; what is needed again is forgotten."""
    before = _seen(queue)
    seen = {g.unneeded.path: before.get(g.unneeded.path, now) for g in garbage}
    if seen != before:
        queue.store.write(_place(queue), _SEEN.dump_json(seen, indent=1))


@task(**SIDE_EFFECT)
def remove_garbage(queue: MergeQueue, garbage: Garbage) -> Garbage:
    """Removes one thing that nothing needs, object by object, unless it is needed by now."""
    unneeded = garbage.unneeded
    if needed_now(queue, unneeded):
        return garbage
    for version in unneeded.versions:
        words = " Its files were removed: to have it tried again, register it again."
        if words not in version.reason:
            queue.registry.experts.settle(version, "rejected", version.reason + words)
    for item in unneeded.objects:
        queue.store.delete(item.uri)
    return replace(garbage, removed=True)


def _seen(queue: MergeQueue) -> dict[str, datetime]:
    """Since when what was unneeded at the last look is so; nothing where that cannot be read."""
    try:
        return _SEEN.validate_json(queue.store.read(_place(queue)))
    except (Unreadable, ValidationError):
        return {}


def _place(queue: MergeQueue) -> S3Uri:
    return queue.family.root / "unneeded.json"
