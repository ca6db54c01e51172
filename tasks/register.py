"""The candidate in MLflow: a version of the family's model that people can look at."""

from __future__ import annotations

from prefect import task

from infra.flowrun import run_id
from infra.queue import MergeQueue
from infra.registry.registry import MergedVersion
from infra.report.summary import markdown_summary
from tasks.retry import SIDE_EFFECT
from tasks.values import Attempt

_VALIDATION = {"passed": "passed", "inconclusive": "pending", "failed": "failed"}


@task(**SIDE_EFFECT)
def register_candidate(queue: MergeQueue, attempt: Attempt) -> MergedVersion:
    """Creates the candidate's version; an attempt that is registered already is found again."""
    manifest = attempt.manifest
    assert manifest is not None, "only a candidate with files is registered"
    return queue.registry.register_merged(
        queue.name,
        queue.candidate(attempt.key),
        attempt.run_id,
        tags={
            "merge.status": "candidate",
            "validation_status": _VALIDATION[attempt.report.verdict],
            "merge.manifest-sha256": manifest.digest,
            "merge.champion-at-build": str(manifest.champion_version or "none"),
            "merge.experts": ", ".join(f"{e.task}={e.name}/{e.version}" for e in manifest.experts),
            "merge.arrivals": ", ".join(member.task for member in attempt.arrivals),
            "merge.rung": attempt.rung,
            "merge.run-id": run_id(),
        },
        description=_description(queue, attempt),
    )


def _description(queue: MergeQueue, attempt: Attempt) -> str:
    """The decision, and in review mode what a reviewer has to do."""
    summary = markdown_summary(attempt.report, queue.registry.run_page(attempt.run_id))
    if queue.family.promotion == "auto" and attempt.report.verdict == "passed":
        return summary
    return (
        f"{summary}\n\n**To decide**, read the full report and then add the tag `approval_status` "
        "below, with the value `approved` or `rejected`."
    )


@task(**SIDE_EFFECT)
def supersede_candidates(queue: MergeQueue, keep: MergedVersion | None, reason: str) -> None:
    """Marks every other pending candidate as superseded, so that nobody approves it."""
    for version in queue.registry.merged(queue.name):
        if version.status == "candidate" and (keep is None or version.version != keep.version):
            queue.registry.tag_merged(
                version, {"merge.status": "superseded", "merge.reason": reason}
            )
