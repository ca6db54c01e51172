"""The candidate in MLflow: a version of the family's model that people can look at."""

from __future__ import annotations

from collections.abc import Mapping

from prefect import task

from infra.flowrun import run_id
from infra.queue import MergeQueue
from infra.registry.merged import MergedVersion
from infra.registry.tags import APPROVAL, CandidateTags, Validation
from infra.report.summary import markdown_summary
from merging.gate.report import Verdict
from tasks.retry import SIDE_EFFECT
from tasks.values import Attempt

VALIDATIONS: Mapping[Verdict, Validation] = {
    "passed": "passed",
    "inconclusive": "pending",
    "failed": "failed",
}


@task(**SIDE_EFFECT)
def register_candidate(queue: MergeQueue, attempt: Attempt) -> MergedVersion:
    """Creates the candidate's version; an attempt that is registered already is found again."""
    manifest = attempt.manifest
    assert manifest is not None, "only a candidate with files is registered"
    return queue.registry.merged.register(
        queue.name,
        queue.candidate(attempt.key),
        attempt.run_id,
        CandidateTags(
            status="candidate",
            validation=VALIDATIONS[attempt.report.verdict],
            manifest_sha256=manifest.digest,
            champion_at_build=manifest.champion_version or "none",
            experts={e.task: f"{e.name}/{e.version}" for e in manifest.experts},
            arrivals=tuple(member.task for member in attempt.arrivals),
            rung=attempt.rung,
            run_id=run_id(),
        ),
        _description(queue, attempt),
    )


def _description(queue: MergeQueue, attempt: Attempt) -> str:
    """The decision, and in review mode what a reviewer has to do."""
    summary = markdown_summary(attempt.report, queue.registry.runs.page(attempt.run_id))
    if queue.family.promotion == "auto" and attempt.report.verdict == "passed":
        return summary
    return (
        f"{summary}\n\n**To decide**, read the full report and then add the tag `{APPROVAL}` "
        "below, with the value `approved` or `rejected`."
    )


@task(**SIDE_EFFECT)
def supersede_candidates(queue: MergeQueue, keep: MergedVersion | None, reason: str) -> None:
    """Marks every other pending candidate as superseded, so that nobody approves it."""
    for version in queue.registry.merged.of(queue.name):
        if version.status == "candidate" and (keep is None or version.version != keep.version):
            queue.registry.merged.settle(version, "superseded", reason)
