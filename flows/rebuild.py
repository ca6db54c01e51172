"""Rebuild: MLflow lost what it had of a family, and gets it again from the object store.

supermerge rebuild demo
"""

from __future__ import annotations

from prefect import flow, get_run_logger

from infra.faults import in_words
from infra.queue import MergeQueue
from tasks.mirror import repair_mirror
from tasks.rebuild import find_changed, find_lost, remake, restore


@flow(name="rebuild", flow_run_name="rebuild {family}", persist_result=False)
@in_words()
def rebuild(family: str) -> tuple[str, ...]:
    """Makes experts, merged versions, their reports, tags and aliases again, from the bucket alone.

    What MLflow still has keeps its number, and what people wrote on it; so it may be run again at any
    time, also after it was killed. What nobody had looked at yet when MLflow was lost is not in the bucket.

    Args:
        family: Name of the family.

    Returns:
        What was made again, by name and number.
    """
    queue = MergeQueue.open(family)
    made = []
    for page in find_lost(queue):
        made.append(remake(queue, page))
        get_run_logger().info("made again: %s", made[-1])
    for page, changes in find_changed(queue):
        made.append(restore(queue, page, changes))
        get_run_logger().info("written again: %s", made[-1])
    repair_mirror(queue)
    return tuple(made)
