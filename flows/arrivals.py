"""What happens to the experts that wait: they are admitted, merged, judged and delivered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prefect import get_run_logger

from flows.admission import admit
from flows.delivery import Outcome, again, bounce, deliver, is_the_experts, unforeseen
from flows.ladder import climb_ladder
from infra.errors import Refused
from infra.logs import about
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from merging.errors import NonFinite
from tasks.find import find_deployed
from tasks.promote import prove_commits
from tasks.pull import pull_base, pull_champion
from tasks.settle import settle_changes
from tasks.values import Base, Candidate, Change, Deployed, Member, Withdrawal, describe
from tasks.withdraw import find_still_wanted, name_lost


def merge_arrivals(
    queue: MergeQueue, waiting: Sequence[ExpertVersion], withdrawals: Sequence[Withdrawal]
) -> tuple[Outcome, ...]:
    """Merges waiting experts into the deployed model and takes out what people want out.

    Returns:
        What became of each group.
    """
    prove_commits(queue)
    base = pull_base(queue)
    deployed = pull_deployed(queue, base)
    members, bounced = admit(queue, base, deployed, waiting)
    changes: tuple[Change, ...] = in_order(members, withdrawals)
    if changes and deployed:
        taken = {change.task for change in changes}
        lost = name_lost(queue, deployed)
        changes = (*changes, *(w for w in lost if w.task not in taken))
    return (*bounced, *merge(queue, base, changes))


def in_order(members: Sequence[Member], withdrawals: Sequence[Withdrawal]) -> tuple[Change, ...]:
    """What may have to wait for a person comes last, so that it does not hold back the others."""
    return (*sorted(members, key=lambda member: bool(member.wish)), *withdrawals)


def pull_deployed(queue: MergeQueue, base: Base) -> Deployed | None:
    """The champion on local disk, or None before the first promotion."""
    newest = find_deployed(queue)
    if newest is None:
        return None
    return pull_champion(queue, base, newest)


def merge(queue: MergeQueue, base: Base, changes: Sequence[Change]) -> tuple[Outcome, ...]:
    """Makes some changes to the deployed model together; where that fails, halves of them, down to one.

    In this way one bad expert does not hold back the others.
    """
    deployed = pull_deployed(queue, base)
    held = deployed.manifest.experts if deployed else ()
    changes = [c for c in changes if isinstance(c, Member) or c.record in held]
    if not changes:
        return ()
    status: Literal["rejected", "held"] = "rejected"
    page, records = "", [change.record for change in changes]
    try:
        with about(*records):
            attempt = climb_ladder(queue, base, deployed, changes)
    except (NonFinite, Refused) as error:
        fault = str(error)
    except Exception as error:
        if not is_the_experts(error):
            raise
        refs = " ".join(record.ref for record in records)
        status, fault = "held", unforeseen("Merging it", error, refs, again(changes))
    else:
        wanted = find_still_wanted(queue, changes)
        if len(wanted) < len(changes):
            return merge(queue, base, wanted)
        if isinstance(attempt, Candidate):
            with about(*records):
                return (deliver(queue, attempt),)
        fault, page = " ".join(attempt.report.reasons), attempt.page
    if len(changes) == 1:
        outcome = bounce(queue, changes, status, fault)
        settle_changes(queue, changes, status, fault, page)
        return (outcome,)
    get_run_logger().info("%s do not pass together; trying halves", describe(changes))
    half = len(changes) // 2
    first = merge(queue, base, changes[:half])
    if any(outcome.waits for outcome in first):
        return first  # The rest is merged onto what a person decides.
    return (*first, *merge(queue, base, changes[half:]))
