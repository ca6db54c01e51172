"""Freezing a family and thawing it: entries of the promotion log, which wait for nobody.

They are plain functions: in the middle of an incident neither Prefect nor MLflow has to answer.
"""

from __future__ import annotations

from typing import Literal

from prefect import task

from infra.errors import Conflict, Frozen, Refused
from infra.queue import MergeQueue
from infra.storage.promotions import Promotion
from tasks.promote import append_entry
from tasks.retry import SIDE_EFFECT

_TRIES = 20  # Merges that may commit at the same moment before a person is told to try again.


def freeze(queue: MergeQueue, who: str, reason: str) -> Promotion:
    """From now on nothing is promoted; candidates are still built, and a rollback is still carried out.

    Raises:
        Refused: Nothing is deployed.
        Frozen: It is frozen already.
    """
    if queue.promotions.newest() is None:
        raise Refused(
            f"Family {queue.name!r} has no deployed model that could be kept.",
            "With `promotion: review` in its file nothing is promoted without you.",
        )
    if already := frozen(queue):
        raise already
    return _append(queue, "freeze", who, reason or "no reason given")


def thaw(queue: MergeQueue, who: str, reason: str) -> Promotion:
    """What passed or was approved meanwhile is promoted by the next merge.

    Raises:
        Refused: The family is not frozen.
    """
    newest = queue.promotions.newest()
    if newest is None or not newest.frozen:
        raise Refused(f"Family {queue.name!r} is not frozen.", "Nothing was changed.")
    return _append(queue, "thaw", who, reason or "no reason given")


@task(**SIDE_EFFECT)
def find_freeze(queue: MergeQueue) -> Frozen | None:
    """Who froze the family and why; None where it is not frozen."""
    return frozen(queue)


def frozen(queue: MergeQueue) -> Frozen | None:
    """As :func:`find_freeze`, outside of a flow."""
    entry = queue.promotions.freeze()
    if entry is None:
        return None
    return Frozen(
        f"The family is frozen since {entry.time:%Y-%m-%d %H:%M} UTC by {entry.decided_by}: "
        f"{entry.reason.removesuffix('.')}.",
        f"To go on: supermerge thaw {queue.name}",
    )


def _append(
    queue: MergeQueue, action: Literal["freeze", "thaw"], who: str, reason: str
) -> Promotion:
    """Commits on whatever is the newest entry: a merge that is under way loses."""
    for _ in range(_TRIES):
        newest = queue.promotions.newest()
        if newest is None or newest.frozen == (action == "freeze"):
            break  # Somebody else did the same at the same moment.
        try:
            return append_entry(queue, newest.model, newest, action, who, reason)
        except Conflict:
            continue
    raise Refused(
        f"Others changed family {queue.name!r} at the same moment.",
        f"Look at `supermerge status {queue.name}` and try again.",
    )
