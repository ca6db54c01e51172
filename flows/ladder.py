"""The ladder: cheap ways of merging first, dearer ones where the gate says no."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger

from infra.queue import MergeQueue
from tasks.evaluate import score_build
from tasks.gate import judge
from tasks.learn import learn, write_model
from tasks.package import package_candidate
from tasks.record import find_attempt, record_attempt
from tasks.report import write_report
from tasks.values import Attempt, Base, Build, Deployed, Member, describe


def climb_ladder(
    queue: MergeQueue, base: Base, deployed: Deployed | None, arrivals: Sequence[Member]
) -> Attempt:
    """Tries rung after rung until a candidate may go on; returns the last attempt."""
    builds = [
        Build(queue.family, rung, base, deployed, tuple(arrivals))
        for rung in queue.family.ladder
        if deployed is not None or rung != "chain"  # a chain needs something to hang on
    ] or [Build(queue.family, "relearn", base, deployed, tuple(arrivals))]
    for build in builds:
        attempt = find_attempt(queue, build) or try_build(queue, build, len(builds))
        get_run_logger().info(
            "%s of %s: %s", build.rung, describe(arrivals), attempt.report.verdict
        )
        if attempt.manifest is not None:
            break
    return attempt


def try_build(queue: MergeQueue, build: Build, attempts: int) -> Attempt:
    """Learns, writes, scores and judges one build, and uploads it where it may go on."""
    learned = learn(queue, build)
    merged = write_model(queue, build, learned)
    scores = score_build(queue, build, merged)
    report, contract = judge(queue, build, scores, attempts)
    pages = write_report(queue, build, learned, scores, report, contract, merged)
    acceptable = report.verdict == "passed" or (
        report.verdict == "inconclusive" and queue.family.gate.inconclusive == "review"
    )
    manifest = package_candidate(queue, build, merged, learned, scores) if acceptable else None
    return record_attempt(queue, build, learned, report, pages, manifest)
