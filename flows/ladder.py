"""The ladder: cheap ways of merging first, dearer ones where the gate says no."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger

from infra.errors import Refused
from infra.families import Family, Rung
from infra.queue import MergeQueue
from merging.errors import InvalidInput, NotEnoughMemory
from tasks.evaluate import score_build
from tasks.gate import judge
from tasks.learn import learn, write_model
from tasks.package import package_candidate
from tasks.publish import publish_attempt
from tasks.record import find_attempt, record_attempt
from tasks.report import write_report
from tasks.values import Attempt, Base, Build, Candidate, Change, Deployed, Member, describe


def climb_ladder(
    queue: MergeQueue, base: Base, deployed: Deployed | None, changes: Sequence[Change]
) -> Attempt:
    """Tries rung after rung until a candidate may go on; returns the last attempt.

    Raises:
        Refused: Nothing would be left to merge.
        InvalidInput, NotEnoughMemory: No rung can be climbed with these settings and this memory.
    """
    if not Build.of(queue.family, "relearn", base, deployed, changes).members:
        raise Refused(
            "Without it the deployed model would hold no task at all.",
            "Register the expert of another task first, or roll back.",
        )
    log, rungs = get_run_logger(), rungs_to_climb(queue.family, deployed, changes)
    made: list[Attempt] = []
    for rung in rungs:
        build = Build.of(queue.family, rung, base, deployed, changes)
        try:
            made.append(find_attempt(queue, build) or try_build(queue, build, len(rungs)))
        except (InvalidInput, NotEnoughMemory) as error:
            if not made and rung == rungs[-1]:
                raise
            log.warning("%s of %s cannot be tried: %s", rung, describe(changes), error)
            continue
        publish_attempt(made[-1])
        log.info("%s of %s: %s", rung, describe(changes), made[-1].report.verdict)
        if isinstance(made[-1], Candidate):
            break
    return made[-1]


def rungs_to_climb(
    family: Family, deployed: Deployed | None, changes: Sequence[Change]
) -> tuple[Rung, ...]:
    """The rungs that can be climbed; a chain needs a deployed model, and something to hang on it."""
    if deployed is not None and any(isinstance(change, Member) for change in changes):
        return family.ladder
    return tuple(rung for rung in family.ladder if rung != "chain") or ("relearn",)


def try_build(queue: MergeQueue, build: Build, rungs: int) -> Attempt:
    """Learns, writes, scores and judges one build, and uploads it where it may go on.

    Args:
        queue: The family's queue.
        build: What is merged, and how.
        rungs: How many rungs of the ladder share the gate examples.
    """
    learned = learn(queue.engine, build, queue.work(build.merge_key))
    merged = write_model(build, learned, queue.work(build.key))
    scores = score_build(queue, build, merged)
    report, contract = judge(queue.engine, build, merged, scores, rungs)
    pages = write_report(
        build, learned, scores, report, contract, merged, queue.settings.mlflow_uri
    )
    manifest = None
    if report.goes_on(queue.family.gate.acceptable):
        manifest = package_candidate(queue, build, merged, learned, scores)
    return record_attempt(queue, build, learned, report, pages, manifest)
