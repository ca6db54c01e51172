"""The decision on a candidate, and the contract that the decision itself has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task

from infra.contracts import ContractResult, check_gate_report
from infra.queue import MergeQueue
from merging.gate import GateReport, TaskScores, decide
from merging.gate.artifact import check_weights
from tasks.values import Build


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
    checks = check_weights(build.base.directory, merged / "model", champion)
    report = decide(queue.family.gate, scores, attempts=attempts, checks=checks)
    contract = check_gate_report(report, [member.task for member in build.members])
    if not contract.passed:
        report = report.overruled(contract.sentences)
    return report, contract
