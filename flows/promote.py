"""Review: acts on what a person set as ``approval_status`` on a candidate in MLflow.

Started by the webhook, or by the next sweep where that was lost. By hand::

    supermerge promote demo 7
"""

from __future__ import annotations

from prefect import flow, get_run_logger

from flows.delivery import promote_candidate
from infra.errors import Conflict, Corrupt, Refused
from infra.flowrun import one_at_a_time
from infra.queue import MergeQueue
from infra.registry.registry import MergedVersion
from infra.storage.manifest import Manifest
from tasks.settle import repair_mirror, settle_expert

DECISIONS = ("approved", "rejected")


@flow(name="promote", flow_run_name="promote {family} {version}", persist_result=False)
def promote(family: str, version: int) -> str:
    """Carries out the review of one candidate.

    Args:
        family: Name of the family.
        version: MLflow version of the candidate.

    Returns:
        What was done or why not, in words; the same words stand on the version as ``merge.review``.
    """
    queue = MergeQueue.open(family)
    with one_at_a_time(family):
        repair_mirror(queue)
        return act_on_review(queue, queue.registry.merged_version(family, version))


def act_on_review(queue: MergeQueue, version: MergedVersion) -> str:
    """Promotes, rejects or refuses, and writes on the version what it did."""
    try:
        words = _decide(queue, version)
    except (Refused, Conflict, Corrupt) as error:
        words = f"Refused: {error}"
        get_run_logger().warning("%s version %d: %s", queue.name, version.version, words)
    queue.registry.tag_merged(version, {"merge.review": words})
    return words


def _decide(queue: MergeQueue, version: MergedVersion) -> str:
    decision = version.tags.get("approval_status", "")
    who = version.tags.get("merge.decided-by") or "a person, by approval_status in MLflow"
    if decision not in DECISIONS:
        raise Refused(
            f"approval_status is {decision!r}.", f"Set it to one of: {', '.join(DECISIONS)}."
        )
    if version.status != "candidate":
        if version.status == "promoted" and decision == "approved":
            return version.tags.get("merge.review") or "It is deployed already."
        raise Refused(
            f"version {version.version} is {version.status or 'not a candidate'}, so it cannot be "
            f"{decision} any more.",
            "Review the newest candidate, or roll back.",
        )
    if decision == "rejected":
        return _reject(queue, version, who)
    if version.tags.get("validation_status") not in _promotable(queue):
        raise Refused(
            f"validation_status is {version.tags.get('validation_status')!r}; only a candidate that "
            "passed the gate can be promoted.",
            "Read its report for what to improve.",
        )
    reason = version.tags.get("merge.review-reason") or "Approved in review."
    try:
        entry = promote_candidate(queue, version, who, reason)
    except (Refused, Conflict) as error:
        queue.registry.tag_merged(
            version, {"merge.status": "superseded", "merge.reason": str(error)}
        )
        raise
    return f"Promoted ({entry.sequence}) at {entry.time:%Y-%m-%d %H:%M} UTC, decided by {who}."


def _promotable(queue: MergeQueue) -> tuple[str, ...]:
    return ("passed", "pending") if queue.family.gate.inconclusive == "review" else ("passed",)


def _reject(queue: MergeQueue, version: MergedVersion, who: str) -> str:
    manifest = Manifest.read(queue.store, version.location, version.manifest_sha256)
    reason = version.tags.get("merge.review-reason") or "no reason given"
    words = f"Rejected in review of version {version.version} by {who}: {reason}."
    arrivals = set(version.tags.get("merge.arrivals", "").split(", "))
    for record in manifest.experts:
        if record.task in arrivals:
            expert = queue.registry.expert(record.name, record.version)
            settle_expert(queue, expert, "rejected", words)
    queue.registry.tag_merged(version, {"merge.status": "rejected", "merge.reason": words})
    return words
