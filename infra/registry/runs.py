"""An attempt's run in MLflow: its report, scores, learning curve, settings and data, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import Unreadable
from infra.registry.metrics import LOSS
from infra.registry.tags import BUILD_KEY, FAMILY, VERDICT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric

_METRICS_PER_CALL = 1000  # Metrics that MLflow takes in one batch.
_DIGEST_LENGTH = 36  # Characters that MLflow takes of a data set's digest.


@dataclass(frozen=True)
class UsedExamples:
    """The calibration or gate examples of a task, as MLflow lists the data of a run."""

    task: str
    side: str
    digest: str
    source: str
    count: int


@dataclass(frozen=True)
class RunRecord:
    """What is logged of an attempt.

    Attributes:
        family: Name of the family.
        build_key: What the attempt is known by.
        title: The run's name, for people.
        verdict: The gate's verdict.
        settings: Names and values of what it was built with.
        metrics: Numbers of the gate by name.
        losses: Step and mean loss of learning.
        examples: The data that it was learned from and judged on.
        report: The folder with the report.
    """

    family: str
    build_key: str
    title: str
    verdict: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    losses: Sequence[tuple[int, float]]
    examples: Sequence[UsedExamples]
    report: Path


class Runs:
    """The attempts' runs of one MLflow server, one experiment for each family."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def record(self, record: RunRecord) -> str:
        """Logs a run and returns its id; a build key that was logged whole is found again."""
        from mlflow.entities import Param, RunTag

        experiment = self._experiment(record.family)
        query = f"tags.`{BUILD_KEY}` = '{record.build_key}'"
        for known in self._client.search_runs([experiment], query, max_results=1):
            return str(known.info.run_id)
        run = self._client.create_run(experiment, run_name=record.title)
        run_id = str(run.info.run_id)
        self._client.log_batch(
            run_id,
            metrics=_metrics(record, run.info.start_time),
            params=[Param(name, value) for name, value in record.settings.items()],
            tags=[RunTag(FAMILY, record.family), RunTag(VERDICT, record.verdict)],
        )
        self._client.log_inputs(run_id, [_dataset(examples) for examples in record.examples])
        self._client.log_artifacts(run_id, str(record.report), "report")
        self._client.set_terminated(run_id)
        # The build key comes last: a run that has it is whole.
        self._client.set_tag(run_id, BUILD_KEY, record.build_key)
        return run_id

    def page(self, run_id: str) -> str:
        """Where people look at a run, its report among the artifacts.

        Raises:
            Unreadable: There is no such run any more.
        """
        experiment = self._get(run_id).info.experiment_id
        server = self._client.tracking_uri
        return f"{server}/#/experiments/{experiment}/runs/{run_id}/artifacts"

    def _get(self, run_id: str) -> Any:
        try:
            return self._client.get_run(run_id)
        except Exception as error:
            # This is what MLflow's own client says; over REST it is Unreadable already.
            if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            words = f"Run {run_id} is gone from MLflow at {self._client.tracking_uri}."
            raise Unreadable(words, "The next attempt makes another.") from error

    def _experiment(self, family: str) -> str:
        name = f"supermerge/{family}"
        if experiment := self._client.get_experiment_by_name(name):
            return str(experiment.experiment_id)
        # Without this tag MLflow shows it as an experiment with language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(name, tags=tags))


def _metrics(record: RunRecord, time: int) -> list[Metric]:
    """Gives all numbers of the gate, and as many evenly spaced losses as fit beside them."""
    from mlflow.entities import Metric

    gate = [Metric(name, value, time, 0) for name, value in record.metrics.items()]
    losses = [Metric(LOSS, loss, time, step) for step, loss in record.losses]
    every = max(1, -(-len(losses) // (_METRICS_PER_CALL - len(gate))))
    return gate + losses[::every]


def _dataset(examples: UsedExamples) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=f"{examples.task} {examples.side}",
        digest=examples.digest[:_DIGEST_LENGTH],
        source_type="s3",
        source=json.dumps({"uri": examples.source}),
        profile=json.dumps({"num_rows": examples.count}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", examples.side)])
