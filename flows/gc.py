"""Garbage collection: what nothing needs any more is removed from the object store. Scheduled weekly.

supermerge gc demo --dry-run        # what could be removed, and when
supermerge gc demo
"""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, get_run_logger

from infra.faults import in_words
from infra.flowrun import one_at_a_time
from infra.queue import MergeQueue
from tasks.collect import Garbage, find_garbage, remember_garbage, remove_garbage


@flow(name="gc", flow_run_name="gc {family}", persist_result=False)
@in_words()
def gc(family: str, dry_run: bool = False, days: int | None = None) -> tuple[Garbage, ...]:
    """Removes what nothing has needed for some days.

    It may be killed at any point.

    Args:
        family: Name of the family.
        dry_run: Only look.
        days: How long it is kept from when it was first seen to be unneeded; by default as the
            family's file says.

    Returns:
        What nothing needs, when it goes, and what is gone.

    Raises:
        Refused: MLflow does not know what is deployed, so nothing was removed.
    """
    queue, now = MergeQueue.open(family), datetime.now(UTC)
    days = queue.family.keep_days if days is None else days
    if dry_run:
        return find_garbage(queue, now, days)
    with one_at_a_time(family):
        garbage = find_garbage(queue, now, days)
        remember_garbage(queue, garbage, now)
        done = tuple(remove_garbage(queue, g) if g.goes <= now else g for g in garbage)
    gone = [g.unneeded.size for g in done if g.removed]
    get_run_logger().info("removed %d of %d (%.1f MB)", len(gone), len(done), sum(gone) / 1e6)
    return done
