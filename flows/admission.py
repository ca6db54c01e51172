"""Which of the waiting experts may be merged, found out before anything is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flows.delivery import Outcome, bounce, is_the_experts, unforeseen
from flows.ladder import rungs_to_climb
from infra.errors import Corrupt, Refused, Unreadable
from infra.logs import one_by_one
from infra.queue import MergeQueue
from infra.registry.experts import ExpertVersion
from merging.errors import InvalidInput
from merging.gate.decision import judge_expert
from merging.serving import TaskError
from tasks.evaluate import score_expert
from tasks.preflight import IncompatibleExpert, preflight
from tasks.pull import pull_expert
from tasks.settle import settle_expert
from tasks.values import Base, Deployed, Member


def admit(
    queue: MergeQueue, base: Base, deployed: Deployed | None, waiting: Sequence[ExpertVersion]
) -> tuple[tuple[Member, ...], tuple[Outcome, ...]]:
    """Pulls and checks the waiting experts; what cannot be merged is settled at once.

    Returns:
        The experts to merge, and what became of those that were bounced.

    Raises:
        Exception: A server does not answer, or the fault is not the expert's.
    """
    members: list[Member] = []
    bounced: list[Outcome] = []
    for version in one_by_one(waiting):
        status: Literal["rejected", "held"]
        release = f"supermerge release {version.ref}"
        try:
            member = look_at(queue, base, deployed, version)
        except (InvalidInput, IncompatibleExpert, Refused, TaskError) as error:
            status, reason = "rejected", str(error)
        except (Unreadable, Corrupt) as error:
            status, reason = "held", f"{error} Then: {release}"
        except Exception as error:
            if not is_the_experts(error):
                raise
            status, reason = "held", unforeseen("Looking at it", error, version.ref, release)
        else:
            if member is not None:
                if version.status != "merging":  # else its reason says what it waits for
                    settle_expert(queue, version, "merging", "")
                members.append(member)
            continue
        bounced.append(bounce(queue, (version,), status, reason))
        settle_expert(queue, version, status, reason)
    return tuple(members), tuple(bounced)


def look_at(
    queue: MergeQueue, base: Base, deployed: Deployed | None, version: ExpertVersion
) -> Member | None:
    """Opens one expert; None where the same content is deployed already.

    Raises:
        InvalidInput, IncompatibleExpert: It does not fit, or its table breaks the data contract.
        Refused: It is no better than its base.
    """
    pulled = pull_expert(queue, version)
    known = {m.task: m.record for m in deployed.members} if deployed else {}
    present = known.get(version.task)
    if present is not None and present.digest == pulled.digest:
        reason = f"Same content as {present.ref}, which is deployed."
        settle_expert(queue, version, "merged", reason)
        return None
    member = preflight(queue.family, queue.engine, base, pulled)
    answers = score_expert(queue, base, member)
    rungs = len(rungs_to_climb(queue.family, deployed, [member]))
    check = judge_expert(queue.family.gate, member.task, *answers, rungs=rungs)
    if check.verdict not in queue.family.gate.acceptable and not member.wish:
        raise Refused("Nothing was merged.", check.sentence)
    return member
