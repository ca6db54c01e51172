"""The decision on a candidate, and the contract that the decision itself has to keep."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from infra.contracts import ContractResult, check_gate_report
from infra.queue import MergeQueue
from merging.gate import GateReport, TaskScores, decide
from tasks.values import Build


@task(persist_result=False)
def judge(
    queue: MergeQueue, build: Build, scores: Sequence[TaskScores], attempts: int
) -> tuple[GateReport, ContractResult]:
    """Decides on a candidate; a decision that does not keep its contract is a failure.

    Args:
        queue: Of the family.
        build: What was built.
        scores: Of every old and new task.
        attempts: Rungs of the ladder that share the gate examples.
    """
    report = decide(queue.family.gate, scores, attempts=attempts)
    contract = check_gate_report(report, [member.task for member in build.members])
    if not contract.passed:
        report = report.overruled(contract.sentences)
    return report, contract
