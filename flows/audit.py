"""Audit: is what is deployed still what was decided? Scheduled every night.

supermerge audit demo
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import flow, get_run_logger

from infra.faults import in_words
from infra.notify import Notice
from infra.queue import MergeQueue
from infra.storage.promotions import Promotion
from merging.errors import MergeQueueError
from tasks.audit import check_log, check_mirror, check_rebuild, check_scores
from tasks.find import find_deployed
from tasks.notify import end_event, notify
from tasks.promote import check_health
from tasks.pull import pull_base, pull_champion
from tasks.retry import is_transient


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
@in_words()
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
        text = "\n".join(findings)
        about = hashlib.sha256(text.encode()).hexdigest()
        notify(queue, Notice("audit-failed", family, f"{family}: audit failed", text, about))
        raise AuditFailed(family, findings)
    end_event(queue, "audit-failed")
    return (
        f"version {newest.version}: every file has the recorded digest",
        "it answers as it did when it was judged",
        "rebuilding it from base, experts and coefficients gives the same bytes",
        "its scores are those of the decision",
        "aliases and tags in MLflow are those that the queue wrote",
        f"the log is whole from promotion 1 to {newest.sequence}, and all that it names is there",
    )


def differences(queue: MergeQueue, newest: Promotion) -> tuple[str, ...]:
    """What differs from what was decided, in words."""
    findings: list[str] = []
    with queue.past_the_cache() as fresh:
        with collecting(findings):
            findings += check_log(fresh)
        with collecting(findings):
            findings += check_mirror(fresh, newest)
        with collecting(findings):
            check_health(fresh, newest.model)
            base = pull_base(fresh)
            deployed = pull_champion(fresh, base, newest)
            findings += deployed.lost.values()
            findings += check_rebuild(base, deployed) if not deployed.lost else ()
            findings += check_scores(fresh, deployed)
    return tuple(dict.fromkeys(findings))


@contextmanager
def collecting(findings: list[str]) -> Iterator[None]:
    """What cannot be checked is a finding too, and keeps nothing else from being checked."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, MergeQueueError) and not is_transient(error):
            raise
        findings.append(str(error))
