"""The decision on a candidate, and the contract that the decision itself has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task

from infra.contracts import ContractResult, check_gate_report
from infra.engine import Engine
from merging.gate import Check, GateReport
from merging.gate.artifact import check_latency, check_weights
from merging.gate.decision import TaskScores, decide
from merging.models.folder import MergedFolder
from merging.vectors.backbone import Backbone
from tasks.values import Build

_MEASURED_AGAIN = 2  # Times that latencies are measured once more where they are too long.
_TIMED_INPUTS = 8  # Inputs that both models answer when latencies are compared.


@task(persist_result=False)
def judge(
    engine: Engine, build: Build, merged: MergedFolder, scores: Sequence[TaskScores], rungs: int
) -> tuple[GateReport, ContractResult]:
    """Decides on a candidate; a decision that does not keep its contract is a failure.

    Args:
        engine: What answers, for the comparison of latencies.
        build: What was built.
        merged: The folder of the merged model.
        scores: Answers on every old and new task.
        rungs: How many rungs of the ladder share the gate examples.
    """
    champion = build.deployed.folder.model if build.deployed else None
    kind = build.family.kind
    write_dtype = build.settings.write_dtype
    buffers = build.experts.buffers if write_dtype != "base" else ()
    base = build.base.directory
    # A task that is renamed or taken out may leave the very weights that are deployed.
    changes_weights = any(not member.replaces for member in build.arrivals)
    before = champion if changes_weights else None
    checks = list(check_weights(base, merged.model, before, kind, write_dtype, buffers))
    if champion is not None:
        checks.append(_check_latency(engine, build, merged.model, champion))
        # A busy moment slows one model more than the other; a slow model is slow each time.
        for _ in range(_MEASURED_AGAIN):
            if checks[-1].verdict == "passed":
                break
            checks[-1] = _check_latency(engine, build, merged.model, champion)
    report = decide(build.family.gate, scores, rungs=rungs, checks=checks)
    if report.verdict != "passed":
        report = report.model_copy(update={"wanted": dict(build.wanted)})
    contract = check_gate_report(report, [member.task for member in build.members])
    if not contract.passed:
        report = report.overruled(contract.sentences)
    return report, contract


def _check_latency(engine: Engine, build: Build, candidate: Path, champion: Path) -> Check:
    """Candidate and champion answer the same few inputs of one old or new task, in turn."""
    expert = build.members[0].expert
    kind = build.family.kind
    ours, theirs = engine.time_answers(
        [Backbone.open(folder, kind) for folder in (candidate, champion)],
        expert.head,
        expert.split.gate.inputs[:_TIMED_INPUTS],
        kind,
        build.device,
    )
    return check_latency(ours, theirs, build.family.gate.latency_factor)
