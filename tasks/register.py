"""The candidate in MLflow: a version of the family's model that people can look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefect import task

from infra.flowrun import run_id
from infra.queue import MergeQueue
from infra.registry.merged import MergedVersion
from infra.registry.tags import APPROVAL, CandidateTags, Validation
from infra.report.summary import markdown_summary
from infra.storage.manifest import Manifest
from merging.gate.report import GateReport, Verdict
from tasks.retry import SIDE_EFFECT
from tasks.values import Candidate

VALIDATIONS: Mapping[Verdict, Validation] = {
    "passed": "passed",
    "inconclusive": "pending",
    "failed": "failed",
}


@task(**SIDE_EFFECT)
def register_candidate(queue: MergeQueue, candidate: Candidate) -> MergedVersion:
    """Creates the candidate's version; one that is registered already is found again."""
    build, manifest = candidate.build, candidate.manifest
    withdrawn = tuple(withdrawal.record.ref for withdrawal in build.withdrawn)
    return queue.registry.merged.register(
        queue.name,
        queue.attempts.candidate(build.key),
        candidate.run_id,
        candidate_tags(
            manifest,
            candidate.report,
            [member.task for member in build.arrivals],
            manifest.digest,
            run_id(),
        ).model_copy(update={"withdrawn": withdrawn}),
        _description(candidate),
        above=max((entry.version for entry in queue.promotions.entries()), default=0),
    )


def candidate_tags(
    manifest: Manifest, report: GateReport | None, arrivals: Sequence[str], digest: str, run: str
) -> CandidateTags:
    """What the queue writes on a candidate.

    Args:
        manifest: The model's manifest.
        report: The gate's decision; None where it is not on record any more.
        arrivals: The tasks of the experts that are new in it.
        digest: The manifest's digest as it was recorded.
        run: The flow run that registers it.
    """
    return CandidateTags(
        status="candidate",
        validation=VALIDATIONS[report.verdict] if report else None,
        manifest_sha256=digest,
        champion_at_build=manifest.champion_version or "none",
        experts={e.task: e.ref for e in manifest.experts},
        arrivals=tuple(arrivals),
        rung=manifest.rung,
        run_id=run,
    )


def _description(candidate: Candidate) -> str:
    """The decision, and in review mode what a reviewer has to do."""
    summary = markdown_summary(candidate.report, candidate.page)
    if candidate.build.family.promotion == "auto" and candidate.report.verdict == "passed":
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
