"""The decision on a candidate, and the contract that the decision itself has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task

from infra.contracts import ContractResult, check_gate_report
from infra.queue import MergeQueue
from merging.gate import Check, GateReport
from merging.gate.artifact import check_latency, check_weights
from merging.gate.decision import TaskScores, decide
from merging.vectors.backbone import Backbone
from tasks.learn import choose_device
from tasks.values import Build

_TIMED_INPUTS = 8


@task(persist_result=False)
def judge(
    queue: MergeQueue, build: Build, merged: Path, scores: Sequence[TaskScores], attempts: int
) -> tuple[GateReport, ContractResult]:
    """Decides on a candidate; a decision that does not keep its contract is a failure.

    Args:
        queue: Of the family.
        build: What was built.
        merged: The folder of the merged model.
        scores: Of every old and new task.
        attempts: Rungs of the ladder that share the gate examples.
    """
    champion = build.deployed.directory / "model" if build.deployed else None
    kind = build.family.kind
    checks = list(check_weights(build.base.directory, merged / "model", champion, kind))
    if champion is not None:
        checks.append(_check_latency(queue, build, merged / "model", champion))
    report = decide(queue.family.gate, scores, attempts=attempts, checks=checks)
    contract = check_gate_report(report, [member.task for member in build.members])
    if not contract.passed:
        report = report.overruled(contract.sentences)
    return report, contract


def _check_latency(queue: MergeQueue, build: Build, candidate: Path, champion: Path) -> Check:
    """Candidate and champion answer the same few inputs of one old or new task, in turn."""
    expert = build.members[0].expert
    kind = build.family.kind
    ours, theirs = queue.engine.time_answers(
        [Backbone.open(folder, kind) for folder in (candidate, champion)],
        expert.head,
        expert.split.gate.inputs[:_TIMED_INPUTS],
        kind,
        choose_device(build.family.device),
    )
    return check_latency(ours, theirs, queue.family.gate.latency_factor)
