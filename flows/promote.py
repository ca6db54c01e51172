"""Review: acts on what a person decided on a candidate's page in MLflow.

Started by the webhook, or by the next sweep where that was lost. By hand::

    supermerge promote demo 7
"""

from __future__ import annotations

from prefect import flow, get_run_logger

from flows.delivery import promote_candidate
from infra.errors import Conflict, Corrupt, Frozen, Refused, Unreadable
from infra.faults import in_words
from infra.queue import MergeQueue
from infra.registry.merged import MergedVersion
from infra.registry.tags import APPROVAL, REVIEW_REASON
from infra.storage.promotions import Recorded
from tasks.find import find_arrivals, find_deployed, find_judged, find_version
from tasks.mirror import repair_mirror
from tasks.settle import disown_review, record_review, settle_expert, settle_version
from tasks.withdraw import find_taken_back, keep_withdrawn


@flow(name="promote", flow_run_name="promote {family} {version}", persist_result=False)
@in_words()
def promote(family: str, version: int) -> str:
    """Carries out the review of one candidate.

    It waits for nobody: a merge that is under way loses its commit and starts over.

    Args:
        family: Name of the family.
        version: MLflow version of the candidate.

    Returns:
        What was done or why not, in words; the same words stand on the version.
    """
    queue = MergeQueue.open(family)
    repair_mirror(queue)
    return act_on_review(queue, find_version(queue, version))


def act_on_review(queue: MergeQueue, version: MergedVersion) -> str:
    """Promotes, rejects or refuses, and writes on the version what it did."""
    version = disown_review(queue, version)
    refused = False
    try:
        words = carry_out(queue, version)
    except (Refused, Conflict, Corrupt, Unreadable) as error:
        refused, words = True, f"Refused: {error}"
        get_run_logger().warning("%s version %d: %s", queue.name, version.version, words)
    record_review(queue, version, words, refused=refused)
    return words


def carry_out(queue: MergeQueue, version: MergedVersion) -> str:
    """Carries out what a person decided, and says what it did.

    Raises:
        Refused: There is no decision, or it comes too late, or the candidate did not pass.
        Corrupt: The queue never built what the version names.
        Conflict, Corrupt, Unreadable: See :func:`flows.delivery.promote_candidate`.
    """
    tags = version.tags
    who = tags.decided_by or f"a person, by {APPROVAL} in MLflow"
    if tags.approval is None:
        raise Refused(
            f"{APPROVAL} is {tags.malformed.get(APPROVAL, '')!r}.",
            "Set it to one of: approved, rejected.",
        )
    if version.status != "candidate":
        if version.status == "promoted" and tags.approval == "approved":
            return tags.review or "It is deployed already."
        raise Refused(
            f"version {version.version} is {version.status or 'not a candidate'}, so it cannot be "
            f"{tags.approval} any more.",
            "Review the newest candidate, or roll back.",
        )
    model, report = find_judged(queue, version)
    if tags.approval == "rejected":
        return reject(queue, version, model, who)
    acceptable = queue.family.gate.acceptable
    if not report.goes_on(acceptable):
        raise Refused(
            f"the gate's verdict is {report.verdict}; only a candidate that passed it can be "
            "promoted.",
            "Read its report for what to improve.",
        )
    if report.verdict not in acceptable and not tags.review_reason:
        raise Refused(
            f"the gate's verdict is {report.verdict}, so an approval needs a reason.",
            f"Approve it again: supermerge approve {queue.name} {version.version} --reason …, or in "
            f"MLflow the tag {REVIEW_REASON} and then {APPROVAL}.",
        )
    if taken_back := find_taken_back(queue, model):
        settle_version(queue, version, "superseded", taken_back)
        raise Refused(taken_back, "The next merge builds another candidate.")
    try:
        entry = promote_candidate(queue, model, who, tags.review_reason or "Approved in review.")
    except Frozen as error:
        return f"Approved by {who}, and waits. {error}"
    except (Refused, Conflict) as error:
        newest = find_deployed(queue)
        if newest is not None and newest.model == model:  # Another run carried it out meanwhile.
            return tags.review or "It is deployed already."
        settle_version(queue, version, "superseded", str(error))
        raise
    return f"Promoted ({entry.sequence}) at {entry.time:%Y-%m-%d %H:%M} UTC, decided by {who}."


def reject(queue: MergeQueue, version: MergedVersion, model: Recorded, who: str) -> str:
    """Settles a candidate and the experts that are new in it, and says why."""
    reason = version.tags.review_reason.removesuffix(".") or "no reason given"
    words = f"Rejected in review of version {version.version} by {who}: {reason}."
    for expert in find_arrivals(queue, model):
        settle_expert(queue, expert, "rejected", words)
    keep_withdrawn(queue, model, words)
    settle_version(queue, version, "rejected", words)
    return words
