"""The report of an attempt: one page for people, and its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contracts import ContractResult
from infra.registry.versions import version_page
from infra.report.inputs import Flip, ReportInputs, collect_flips
from infra.report.inputs import Member as ShownMember
from infra.report.page import render_report
from merging.gate import GateReport
from merging.gate.decision import TaskScores
from merging.learning.grouping import cosines
from merging.learning.learn import Learned
from merging.models.coefficients import Coefficients
from merging.models.folder import MergedFolder
from merging.models.precision import Precision
from tasks.values import Build, Deployed, Member, describe


@task(cache_policy=NO_CACHE, persist_result=False)
def write_report(
    build: Build,
    learned: Learned,
    scores: Sequence[TaskScores],
    report: GateReport,
    contract: ContractResult,
    merged: MergedFolder,
    mlflow: str,
) -> Path:
    """Writes the report into the merged model's folder and returns the report's folder.

    Args:
        build: What was built.
        learned: What its coefficients are and how they were learned.
        scores: Answers on every old and new task.
        report: The gate's decision.
        contract: Whether the decision keeps its own contract.
        merged: The folder of the merged model.
        mlflow: The address of MLflow, for links to the experts.
    """
    deployed, family = build.deployed, build.family
    precision = Precision.load(merged.precision)
    inputs = ReportInputs(
        report=report,
        family=family.name,
        candidate=f"{build.rung}: {describe(build.changes)}",
        champion=f"version {deployed.promotion.version}" if deployed else "",
        flips=_flips(build, scores, report),
        coefficients=learned.coefficients,
        champion_coefficients=_champion_coefficients(deployed),
        history=learned.history,
        plan=learned.plan.to_json(),
        members=[_shown(member, mlflow) for member in build.members],
        champion_members=[_shown(m, mlflow) for m in deployed.members] if deployed else (),
        settings=build.settings.model_dump(mode="json"),
        facts={
            "base": family.base,
            "base digest": build.base.digest,
            "build key": build.key,
            "built on": f"promotion {build.champion_sequence}",
            "precision": precision.sentence,
        },
        contracts=[m.contract for m in build.arrivals if m.contract] + [contract],
        cosines=_cosines(build),
        precision=precision,
        reproduce=(
            f"supermerge audit {family.name}    # rebuilds it and compares every byte",
            f"supermerge pull {family.name} DIRECTORY    # its files, digests checked",
        ),
    )
    return render_report(inputs, merged.report).parent


def _flips(
    build: Build, scores: Sequence[TaskScores], report: GateReport
) -> dict[str, tuple[Flip, ...]]:
    gate = {member.task: member.expert.split.gate for member in build.members}
    keys = {decision.task: decision.negative_flips for decision in report.tasks}
    return {
        s.task: collect_flips(keys[s.task], gate[s.task], s.candidate, s.champion or s.base)
        for s in scores
    }


def _cosines(build: Build) -> dict[str, dict[str, float]]:
    """Cosine of each pair of task vectors, by task and task."""
    tasks, values = build.experts.tasks, cosines(build.experts)
    return {
        a: dict(zip(tasks, row, strict=True)) for a, row in zip(tasks, values.tolist(), strict=True)
    }


def _champion_coefficients(deployed: Deployed | None) -> Coefficients | None:
    if deployed is None:
        return None
    return Coefficients.load(deployed.folder.coefficients)


def _shown(member: Member, mlflow: str) -> ShownMember:
    record = member.record
    return ShownMember(
        task=record.task,
        name=record.ref,
        digest=record.digest,
        link=version_page(mlflow, record.name, record.version),
        remarks=member.remarks,
    )
