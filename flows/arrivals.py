"""What happens to the experts that wait: they are admitted, merged, judged and delivered."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger

from flows.admission import admit
from flows.delivery import Outcome, bounce, deliver, is_the_experts, unforeseen
from flows.ladder import climb_ladder
from infra.logs import about
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from infra.registry.tags import ExpertStatus
from merging.errors import NonFinite
from tasks.find import find_deployed
from tasks.pull import pull_base, pull_champion
from tasks.settle import settle_members
from tasks.values import Base, Candidate, Deployed, Member, describe


def merge_arrivals(queue: MergeQueue, waiting: Sequence[ExpertVersion]) -> tuple[Outcome, ...]:
    """Merges waiting experts into the deployed model; says what became of each group."""
    base = pull_base(queue)
    deployed = pull_deployed(queue, base)
    members, bounced = admit(queue, base, deployed, waiting)
    return (*bounced, *merge(queue, base, members))


def pull_deployed(queue: MergeQueue, base: Base) -> Deployed | None:
    """The champion on local disk, or None before the first promotion."""
    newest = find_deployed(queue)
    if newest is None:
        return None
    return pull_champion(queue, base, newest)


def merge(queue: MergeQueue, base: Base, arrivals: Sequence[Member]) -> tuple[Outcome, ...]:
    """Merges arrivals together; where that fails, halves of them, down to the single expert.

    In this way one bad expert does not hold back the others.
    """
    if not arrivals:
        return ()
    deployed = pull_deployed(queue, base)
    status: ExpertStatus = "rejected"
    page, records = "", [member.record for member in arrivals]
    try:
        with about(*records):
            attempt = climb_ladder(queue, base, deployed, arrivals)
    except NonFinite as error:
        fault = str(error)
    except Exception as error:
        if not is_the_experts(error):
            raise
        refs = " ".join(record.ref for record in records)
        status, fault = "held", unforeseen("Merging it", error, refs)
    else:
        if isinstance(attempt, Candidate):
            with about(*records):
                return (deliver(queue, attempt),)
        fault, page = " ".join(attempt.report.reasons), attempt.page
    if len(arrivals) == 1:
        settle_members(queue, arrivals, status, fault, page)
        return (bounce(queue, (arrivals[0].task,), fault),)
    get_run_logger().info("%s do not pass together; trying halves", describe(arrivals))
    half = len(arrivals) // 2
    first = merge(queue, base, arrivals[:half])
    if any(outcome.waits for outcome in first):
        return first  # The rest is merged onto what a person decides.
    return (*first, *merge(queue, base, arrivals[half:]))
