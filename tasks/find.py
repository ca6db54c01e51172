"""Which experts are waiting: registered, and not settled."""

from __future__ import annotations

from prefect import task

from infra.queue import MergeQueue
from infra.registry.registry import ExpertVersion
from tasks.retry import SIDE_EFFECT

_OPEN = {"waiting", "merging"}  # a run that was killed leaves "merging" behind


@task(**SIDE_EFFECT)
def find_waiting_experts(queue: MergeQueue) -> tuple[ExpertVersion, ...]:
    """The waiting experts in the order of their registration, the newest of each task.

    An older version of the same task that never got its turn is settled as held.
    """
    newest: dict[str, ExpertVersion] = {}
    for expert in queue.registry.experts(queue.name):
        if expert.status not in _OPEN:
            continue
        if older := newest.pop(expert.task, None):
            queue.registry.settle_expert(
                older, "held", f"{expert.ref} was registered later for the same task."
            )
        newest[expert.task] = expert
    return tuple(newest.values())
