"""What an attempt leaves behind: an MLflow run for people, and the decision for the next run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from prefect import get_run_logger, task

from infra.errors import Corrupt, Unreadable
from infra.queue import MergeQueue
from infra.registry.runs import RunRecord, UsedExamples
from infra.report.summary import gate_metrics
from infra.storage.attempts import Decided
from infra.storage.manifest import Manifest, find_whole
from merging.gate import GateReport
from merging.learning.learn import Learned
from tasks.retry import SIDE_EFFECT
from tasks.values import Attempt, Build, Candidate, Member, Rejected, describe

_SIDES = ("calibration", "gate")


@task(**SIDE_EFFECT)
def find_attempt(queue: MergeQueue, build: Build) -> Attempt | None:
    """What came of this build before, or None if it never came to an end.

    What cannot be read back counts as not there, and is made again.
    """
    try:
        decided = queue.attempts.find(build.key)
        if decided is None:
            return None
        manifest = None
        if decided.manifest_sha256:
            location = queue.attempts.candidate(build.key)
            manifest = find_whole(queue.store, location, decided.manifest_sha256)
            if manifest is None:
                get_run_logger().warning("%s is not whole any more and is built again", location)
                return None
        return _attempt(queue, build, decided, manifest)
    except (Corrupt, Unreadable) as error:
        get_run_logger().warning("an earlier attempt cannot be read back: %s", error)
        return None


@task(**SIDE_EFFECT)
def record_attempt(
    queue: MergeQueue,
    build: Build,
    learned: Learned,
    report: GateReport,
    pages: Path,
    manifest: Manifest | None,
) -> Attempt:
    """Logs an attempt as an MLflow run and writes down the decision.

    Args:
        queue: The family's queue.
        build: What was built.
        learned: What its coefficients are and how they were learned.
        report: The gate's decision.
        pages: The folder with the report for people.
        manifest: The manifest of the candidate's files; None where the build is rejected.
    """
    run_id = queue.registry.runs.record(_run(build, learned, report, pages))
    queue.decisions.record(build.key, (m.expert.split.gate.digest for m in build.members))
    digest = manifest.digest if manifest else None
    decided = Decided(run_id=run_id, manifest_sha256=digest, report=report)
    queue.attempts.record(build.key, decided)
    queue.work_is_done(build.merge_key, build.key)
    return _attempt(queue, build, decided, manifest)


def _attempt(
    queue: MergeQueue, build: Build, decided: Decided, manifest: Manifest | None
) -> Attempt:
    page = queue.registry.runs.page(decided.run_id)
    if manifest is None:
        return Rejected(build, decided.report, decided.run_id, page)
    return Candidate(build, decided.report, decided.run_id, page, manifest)


def _run(build: Build, learned: Learned, report: GateReport, pages: Path) -> RunRecord:
    settings = {"rung": build.rung, **flat(build.settings.model_dump(mode="json"))}
    return RunRecord(
        family=build.family.name,
        build_key=build.key,
        title=f"{build.rung}: {describe(build.changes)}",
        verdict=report.verdict,
        settings={name: str(value) for name, value in settings.items()},
        metrics=gate_metrics(report),
        losses=[(step.step, mean(step.losses.values())) for step in learned.history if step.losses],
        examples=[_used(member, side) for member in build.members for side in _SIDES],
        report=pages,
    )


def _used(member: Member, side: str) -> UsedExamples:
    examples = getattr(member.expert.split, side)
    return UsedExamples(
        member.task, side, examples.digest, member.record.source, count=len(examples)
    )


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings by one name each, as MLflow shows them."""
    names: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            names |= flat(value, f"{prefix}{name}.")
        else:
            names[f"{prefix}{name}"] = value
    return names
