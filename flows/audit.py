"""Audit: is what is deployed still what was decided? Scheduled every night.

supermerge audit demo
"""

from __future__ import annotations

from prefect import flow, get_run_logger

from infra.notify import Notice
from infra.queue import MergeQueue
from infra.storage.promotions import Promotion
from merging.errors import MergeQueueError
from tasks.audit import check_mirror, check_rebuild, check_scores
from tasks.find import find_deployed
from tasks.notify import notify
from tasks.promote import check_health
from tasks.pull import pull_base, pull_champion


class AuditFailed(MergeQueueError):
    """The deployed model is not what was decided.

    Attributes:
        family: Name of the family.
        findings: What differs, in words.
    """

    def __init__(self, family: str, findings: tuple[str, ...]) -> None:
        super().__init__(f"Audit of {family}: " + " ".join(findings))
        self.family = family
        self.findings = findings


@flow(name="audit", flow_run_name="audit {family}", persist_result=False)
def audit(family: str) -> tuple[str, ...]:
    """Re-hashes, rebuilds and re-scores the champion; compares log, aliases and tags.

    It changes nothing; what MLflow shows is put right by the next merge.

    Args:
        family: Name of the family.

    Returns:
        What was checked, in words.

    Raises:
        AuditFailed: Something differs.
    """
    queue = MergeQueue.open(family)
    newest = find_deployed(queue)
    if newest is None:
        get_run_logger().info("nothing is deployed yet")
        return ()
    findings = differences(queue, newest)
    while findings and newest != (now := find_deployed(queue)) and now is not None:
        newest = now  # Something was decided meanwhile, and what differed may have come of that.
        findings = differences(queue, newest)
    if findings:
        notify(
            queue.family,
            Notice("audit-failed", family, f"{family}: audit failed", "\n".join(findings)),
        )
        raise AuditFailed(family, findings)
    return (
        f"version {newest.version}: every file has the recorded digest",
        "it answers as it did when it was judged",
        "rebuilding it from base, experts and coefficients gives the same bytes",
        "its scores are those of the decision",
        "aliases and tags agree with the promotion log",
    )


def differences(queue: MergeQueue, newest: Promotion) -> tuple[str, ...]:
    """What differs from what was decided, in words."""
    findings = list(check_mirror(queue, newest))
    try:
        check_health(queue, newest.model)
        base = pull_base(queue)
        deployed = pull_champion(queue, base, newest)
        findings += check_rebuild(base, deployed)
        findings += check_scores(queue, deployed)
    except MergeQueueError as error:
        findings.append(str(error))
    return tuple(findings)
