"""What a merge leaves for people to read: in MLflow, beside the model, and in Prefect."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.e2e


def test_a_decided_merge_is_told_in_mlflow_and_in_prefect(queue, expert, land):
    from mlflow import MlflowClient
    from prefect.artifacts import Artifact

    from flows.continual_merge import continual_merge
    from infra.storage.manifest import Manifest

    land(queue, "weather", expert("weather"))
    (outcome,) = continual_merge(queue.name)
    version = queue.registry.merged.get(queue.name, outcome.version)
    client = queue.registry.client
    run = MlflowClient().get_run(version.run_id)

    files = {f.path for f in client.list_artifacts(version.run_id, "report")}
    assert {"report/report.html", "report/report.json", "report/data-docs"} <= files
    (docs,) = client.list_artifacts(version.run_id, "report/data-docs")
    assert docs.path == "report/data-docs/index.html"
    manifest = Manifest.read(queue.store, version.location, version.manifest_sha256)
    assert "report/data-docs/index.html" in manifest.files, "and beside the model in the store"
    page = queue.store.read(version.location / "report/data-docs/index.html").decode()
    assert "examples of weather" in page
    assert "gate report" in page
    report = json.loads(queue.store.read(version.location / "report/report.json"))
    contracts = {c["name"]: c["raw"]["success"] for c in report["contracts"]}
    assert contracts == {"examples of weather": True, "gate report": True}

    numbers = run.data.metrics
    assert numbers["gate/passed"] == 1.0
    assert numbers["gate/weather/candidate"] > numbers["gate/weather/base"]
    assert "gate/weather/difference_lower" in numbers
    assert {d.dataset.name for d in run.inputs.dataset_inputs} == {
        "weather calibration",
        "weather gate",
    }
    description = client.get_model_version(queue.name, str(version.version)).description
    assert description.startswith("**Passed")
    assert "| weather | new |" in description
    assert version.run_id in description, "links the report"

    decision = Artifact.get(f"{queue.name}-relearn-decision")
    assert decision.type == "markdown"
    assert version.run_id in decision.data
    scores = Artifact.get(f"{queue.name}-relearn-scores")
    assert scores.type == "table"
    assert json.loads(scores.data)[0]["task"] == "weather"
    assert version.run_id in Artifact.get(f"{queue.name}-relearn-report").data
