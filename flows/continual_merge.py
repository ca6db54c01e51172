"""The main flow: merge what is waiting, judge it, promote it or bounce it.

It asks what is missing, not what happened: a webhook, the schedule and a person all start it with
nothing but the name of the family, and starting it twice, or late, does no harm. Run it by hand::

    supermerge merge demo
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow, get_run_logger

from flows.delivery import Outcome, bounce, deliver
from flows.ladder import acceptable, climb_ladder, rungs_to_climb
from flows.promote import act_on_review
from infra.flowrun import one_at_a_time
from infra.queue import MergeQueue
from infra.registry import ExpertVersion
from merging.errors import (
    Corrupt,
    IncompatibleExpert,
    InvalidInput,
    NonFinite,
)
from merging.gate import judge_expert
from tasks.evaluate import score_expert
from tasks.find import find_waiting_experts
from tasks.preflight import preflight
from tasks.pull import pull_base, pull_champion, pull_expert
from tasks.settle import repair_mirror, settle_expert, settle_members
from tasks.values import Base, Deployed, Member, describe


@flow(name="continual-merge", flow_run_name="continual-merge {family}", persist_result=False)
def continual_merge(family: str) -> tuple[Outcome, ...]:
    """Merges every waiting expert of a family into the deployed model.

    Args:
        family: Name of the family.

    Returns:
        What became of each group of experts, in the order in which it was decided.
    """
    queue = MergeQueue.open(family)
    with one_at_a_time(family):
        repair_mirror(queue)
        review_candidates(queue)
        waiting = find_waiting_experts(queue)
        if not waiting:
            get_run_logger().info("no expert is waiting")
            return ()
        base = pull_base(queue)
        deployed = pull_deployed(queue, base)
        members, bounced = admit(queue, base, deployed, waiting)
        return (*bounced, *merge(queue, base, members))


def review_candidates(queue: MergeQueue) -> None:
    """Acts on approvals and rejections whose webhook was lost."""
    for version in queue.registry.merged(queue.name):
        if version.status == "candidate" and version.tags.get("approval_status"):
            act_on_review(queue, version)


def pull_deployed(queue: MergeQueue, base: Base) -> Deployed | None:
    """The champion on local disk, or None before the first promotion.

    Raises:
        Corrupt: the base is not the one that the champion was merged from.
    """
    newest = queue.promotions.newest()
    if newest is None:
        return None
    deployed = pull_champion(queue, newest)
    if deployed.manifest.base_digest != base.digest:
        raise Corrupt(
            f"{queue.family.base} has digest {base.digest}, but the deployed version "
            f"{newest.version} was merged from {deployed.manifest.base_digest}. A family has one "
            "base for good: restore it, or start a new family for the new base."
        )
    return deployed


def admit(
    queue: MergeQueue,
    base: Base,
    deployed: Deployed | None,
    waiting: Sequence[ExpertVersion],
) -> tuple[tuple[Member, ...], tuple[Outcome, ...]]:
    """Pulls and checks the waiting experts; those that cannot be merged are rejected at once."""
    members, bounced = [], []
    attempts = len(rungs_to_climb(queue.family, deployed))
    known = {m.task: m.record for m in deployed.members} if deployed else {}
    for version in waiting:
        try:
            pulled = pull_expert(queue, version)
            present = known.get(version.task)
            if present and present.digest == pulled.digest:
                reason = f"Same content as {present.name}/{present.version}, which is deployed."
                settle_expert(queue, version, "merged", reason)
                continue
            member = preflight(queue, base, pulled)
            answers = score_expert(queue, base, member)
            check = judge_expert(queue.family.gate, member.task, *answers, attempts=attempts)
            if check.verdict not in acceptable(queue.family):
                raise InvalidInput(
                    where=version.ref,
                    expected="an expert that is better than its base",
                    found=check.sentence,
                    remedy="Nothing was merged.",
                )
        except (InvalidInput, IncompatibleExpert) as error:
            settle_expert(queue, version, "rejected", str(error))
            bounced.append(bounce(queue, (version.task,), str(error)))
            continue
        settle_expert(queue, version, "merging", "")
        members.append(member)
    return tuple(members), tuple(bounced)


def merge(queue: MergeQueue, base: Base, arrivals: Sequence[Member]) -> tuple[Outcome, ...]:
    """Merges arrivals together; where that fails, halves of them, down to the single expert.

    So one bad expert does not hold back the others.
    """
    if not arrivals:
        return ()
    try:
        attempt = climb_ladder(queue, base, pull_deployed(queue, base), arrivals)
        fault, page = " ".join(attempt.report.reasons), queue.registry.run_page(attempt.run_id)
    except NonFinite as error:
        attempt, fault, page = None, str(error), ""
    if attempt is not None and attempt.manifest is not None:
        return (deliver(queue, attempt),)
    if len(arrivals) == 1:
        settle_members(queue, arrivals, "rejected", fault, page)
        return (bounce(queue, (arrivals[0].task,), fault),)
    get_run_logger().info("%s do not pass together; trying halves", describe(arrivals))
    half = len(arrivals) // 2
    first = merge(queue, base, arrivals[:half])
    if any(outcome.verdict == "waits for review" for outcome in first):
        return first  # the rest is merged onto what the reviewer decides
    return (*first, *merge(queue, base, arrivals[half:]))
