"""What an attempt leaves behind: an MLflow run for people, and its outcome for the next run.

The outcome is one small object under ``attempts/<build key>.json``, written last. A run that was
killed, or that meets the same inputs again, finds it there and does not repeat the work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from prefect import task
from pydantic import BaseModel, ConfigDict

from infra.queue import MergeQueue
from infra.report.summary import gate_metrics
from infra.storage.manifest import Manifest
from infra.storage.store import S3Uri
from merging.gate import GateReport
from merging.learning.learn import Learned
from tasks.evaluate import decisions
from tasks.retry import SIDE_EFFECT
from tasks.values import Attempt, Build, Member, describe

_METRICS_PER_CALL = 1000  # MLflow's limit for one batch
_SIDES = ("calibration", "gate")


class _Outcome(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    manifest_sha256: str | None
    report: GateReport


@task(**SIDE_EFFECT)
def find_attempt(queue: MergeQueue, build: Build) -> Attempt | None:
    """What came of this build before, or None if it never came to an end."""
    uri = _outcome(queue, build.key)
    if not queue.store.exists(uri):
        return None
    outcome = _Outcome.model_validate_json(queue.store.read(uri))
    manifest = None
    if outcome.manifest_sha256:
        location = queue.candidate(build.key)
        manifest = Manifest.read(queue.store, location, outcome.manifest_sha256)
    return Attempt(build.key, build.rung, build.arrivals, outcome.report, outcome.run_id, manifest)


@task(**SIDE_EFFECT)
def record_attempt(
    queue: MergeQueue,
    build: Build,
    learned: Learned,
    report: GateReport,
    pages: Path,
    manifest: Manifest | None,
) -> Attempt:
    """Logs an attempt as an MLflow run and writes its outcome."""
    run_id = _log_run(queue, build, learned, report, pages)
    for member in build.members:
        queue.store.write(decisions(queue, member) / build.key, b"")
    outcome = _Outcome(
        run_id=run_id, manifest_sha256=manifest.digest if manifest else None, report=report
    )
    queue.store.write(_outcome(queue, build.key), outcome.model_dump_json().encode())
    return Attempt(build.key, build.rung, build.arrivals, report, run_id, manifest)


def _outcome(queue: MergeQueue, key: str) -> S3Uri:
    return queue.family.root / "attempts" / f"{key}.json"


def _log_run(
    queue: MergeQueue, build: Build, learned: Learned, report: GateReport, pages: Path
) -> str:
    client = queue.registry.client
    experiment = _experiment(queue)
    query = f"tags.`merge.build-key` = '{build.key}'"
    for run in client.search_runs([experiment], query, max_results=1):
        return str(run.info.run_id)
    run = client.create_run(experiment, run_name=f"{build.rung}: {describe(build.arrivals)}")
    run_id = str(run.info.run_id)
    parameters = {"rung": build.rung, **_flat(build.settings.model_dump(mode="json"))}
    client.log_batch(
        run_id,
        metrics=_metrics(run.info.start_time, learned, report),
        params=[Param(name, str(value)) for name, value in parameters.items()],
        tags=[RunTag("merge.family", queue.name), RunTag("merge.verdict", report.verdict)],
    )
    client.log_inputs(run_id, [_dataset(m, side) for m in build.members for side in _SIDES])
    client.log_artifacts(run_id, str(pages), "report")
    client.set_terminated(run_id)
    client.set_tag(run_id, "merge.build-key", build.key)  # last: a run that has it is whole
    return run_id


def _dataset(member: Member, side: str) -> DatasetInput:
    """The calibration or gate examples of a task, as MLflow lists the data of a run."""
    examples = getattr(member.expert.split, side)
    dataset = Dataset(
        name=f"{member.task} {side}",
        digest=examples.digest[:36],  # MLflow's limit
        source_type="s3",
        source=json.dumps({"uri": member.record.source}),
        profile=json.dumps({"num_rows": len(examples)}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", side)])


def _experiment(queue: MergeQueue) -> str:
    name = f"supermerge/{queue.name}"
    if experiment := queue.registry.client.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    tags = {"mlflow.experimentKind": "custom_model_development"}  # else shown as a GenAI experiment
    return str(mlflow.create_experiment(name, tags=tags))


def _metrics(time: int, learned: Learned, report: GateReport) -> list[Metric]:
    gate = [Metric(name, value, time, 0) for name, value in gate_metrics(report).items()]
    losses = [
        Metric("learn/loss", mean(record.losses.values()), time, record.step)
        for record in learned.history
        if record.losses
    ]
    every = max(1, -(-len(losses) // (_METRICS_PER_CALL - len(gate))))
    return gate + losses[::every]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
