"""The main flow: merge what is waiting, judge it, promote it or bounce it.

It asks what is missing, not what happened: a webhook, the schedule and a person all start it with
nothing but the name of the family, and starting it twice, or late, does no harm. Run it by hand::

    supermerge merge demo
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prefect import flow, get_run_logger

from flows.delivery import Outcome, Overtaken
from flows.promote import act_on_review
from infra.errors import Conflict
from infra.faults import in_words
from infra.flowrun import one_at_a_time
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from tasks.find import find_reviewed_candidates, find_waiting_experts
from tasks.mirror import repair_mirror
from tasks.notify import failures_told, tell_of_log
from tasks.unseen import name_unseen
from tasks.withdraw import drop_candidates, find_withdrawals

_TRIES = 3  # How often a run starts over where somebody else changed the deployed model.


@flow(name="continual-merge", flow_run_name="continual-merge {family}", persist_result=False)
@in_words()
def continual_merge(family: str) -> tuple[Outcome, ...]:
    """Merges every waiting expert of a family into the deployed model, and takes out what people want out.

    Args:
        family: Name of the family.

    Returns:
        What became of each group of experts, in the order in which it was decided.
    """
    queue = MergeQueue.open(family)
    with one_at_a_time(family), failures_told(queue, "continual-merge") as begin:
        for _ in range(_TRIES - 1):
            try:
                return sweep(queue, begin)
            except (Overtaken, Conflict):
                get_run_logger().warning(
                    "the deployed model changed meanwhile; starting over on it"
                )
        return sweep(queue, begin)


def sweep(queue: MergeQueue, begin: Callable[[], None]) -> tuple[Outcome, ...]:
    """Acts on reviews, then merges what is waiting and takes out what people want out.

    Args:
        queue: The family's queue.
        begin: Is called before anything that takes long.

    Raises:
        Overtaken, Conflict: Somebody else changed the deployed model meanwhile; nothing was promoted.
    """
    tell_of_log(queue, repair_mirror(queue))
    review_candidates(queue)
    name_unseen(queue)
    waiting, withdrawals = find_waiting_experts(queue), find_withdrawals(queue)
    drop_candidates(queue)
    if not waiting and not withdrawals:
        get_run_logger().info("no expert is waiting")
        return ()
    begin()
    # Merging needs torch and transformers, whose import takes longer than a whole idle sweep.
    from flows.arrivals import merge_arrivals

    outcomes: tuple[Outcome, ...] = ()
    for urgent in by_priority(waiting):
        outcomes += merge_arrivals(queue, urgent, withdrawals)
        if any(outcome.waits for outcome in outcomes):
            break  # The rest is merged onto what a person decides.
        withdrawals = ()
    return outcomes


def by_priority(waiting: Sequence[ExpertVersion]) -> Iterator[tuple[ExpertVersion, ...]]:
    """The experts of each priority, the most urgent first; once, with none, where none waits."""
    for priority in sorted({e.tags.priority or 0 for e in waiting} or {0}, reverse=True):
        yield tuple(e for e in waiting if (e.tags.priority or 0) == priority)


def review_candidates(queue: MergeQueue) -> None:
    """Acts on approvals and rejections whose webhook was lost."""
    for version in find_reviewed_candidates(queue):
        act_on_review(queue, version)
