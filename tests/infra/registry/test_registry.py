"""Experts, merged models and runs in MLflow itself, on SQLite in this process.

Once through MLflow's own client and once through the light one, which asks MLflow's server.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow import MlflowClient

from infra.errors import Refused, Unavailable, Unreadable
from infra.registry.metrics import LOSS, PASSED
from infra.registry.registry import Registry
from infra.registry.rest import RestClient
from infra.registry.runs import RunRecord, UsedExamples
from infra.registry.tags import CandidateTags
from infra.storage.store import S3Uri
from merging.errors import InvalidInput

SOURCE = S3Uri("bucket", "demo/experts/food")


@pytest.fixture(scope="module", params=["MLflow's client", "over REST"])
def client(
    request, tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path
) -> Iterator[MlflowClient]:
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(empty_mlflow, folder)
    database = f"sqlite:///{folder / 'mlflow.db'}"
    with contextlib.chdir(folder):  # MLflow keeps artifacts where it is first used.
        client = MlflowClient(database)
        client.search_experiments()
    if request.param == "MLflow's client":
        yield client
        return
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("_MLFLOW_SERVER_FILE_STORE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.setenv(variable, database)
        from mlflow.server import app

        # What the light client does not do itself, it has done here.
        patch.setattr("mlflow.MlflowClient", lambda _uri: client)
        yield RestClient("http://localhost", transport=httpx.WSGITransport(app=app))
        # The server has told its own process where everything is, for good.
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture
def calls(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tags that are set or removed."""
    names: list[str] = []
    for method in ("set_model_version_tag", "delete_model_version_tag"):
        real = getattr(client, method)

        def note(name, version, key, *value, real=real):
            names.append(key)
            real(name, version, key, *value)

        monkeypatch.setattr(client, method, note)
    return names


@pytest.fixture
def registry(client: MlflowClient) -> Registry:
    return Registry(client)


def register_candidate(registry: Registry, family: str, key: str = "k1"):
    run = registry.client.create_run(registry.client.create_experiment(f"{family}-{key}"))
    tags = CandidateTags(status="candidate", validation="passed", manifest_sha256="abc")
    location = S3Uri("bucket", f"{family}/merged/{key}")
    return registry.merged.register(family, location, run.info.run_id, tags, "words")


def test_an_expert_is_registered_once_for_the_same_content(registry):
    first = registry.experts.register("once", "food", SOURCE, "digest-1")
    assert registry.experts.register("once", "food", SOURCE, "digest-1") == first
    second = registry.experts.register("once", "food", SOURCE, "digest-2")

    assert (first.ref, first.status, first.task) == ("once-food/1", "waiting", "food")
    assert [expert.ref for expert in registry.experts.of("once")] == ["once-food/1", "once-food/2"]
    assert registry.experts.get(second.name, 2) == second


def test_settling_writes_what_differs_and_the_status_last(registry, calls):
    expert = registry.experts.register("settled", "food", SOURCE, "digest")
    registry.experts.settle(expert, "rejected", "Worse than its base.", "http://report")
    assert calls == ["merge.reason", "merge.report", "merge.status"]

    settled = registry.experts.get(expert.name, expert.version)
    registry.experts.settle(settled, "rejected", "Worse than its base.", "http://report")
    assert len(calls) == 3, "the same again writes nothing"

    registry.experts.settle(settled, "waiting", "Released.")
    assert calls[3:] == ["merge.reason", "merge.report", "merge.status"]
    released = registry.experts.get(expert.name, expert.version)
    assert (released.reason, released.tags.report) == ("Released.", ""), "the old report is gone"


def test_what_people_wrote_never_stops_the_queue_from_listing_experts(registry, client):
    good = registry.experts.register("odd", "food", SOURCE, "digest-1")
    odd = registry.experts.register("odd", "food", SOURCE, "digest-2")
    client.set_model_version_tag(odd.name, str(odd.version), "merge.status", "done?")
    client.set_model_version_tag(odd.name, str(odd.version), "merge.task", "Food & drink")

    listed = registry.experts.of("odd")

    assert [expert.ref for expert in listed] == [good.ref, odd.ref]
    assert (listed[1].status, listed[1].task) == (None, "Food & drink")
    assert listed[1].tags.malformed == {"merge.status": "done?"}


def test_a_version_that_does_not_exist_is_refused_in_words(registry):
    with pytest.raises(InvalidInput, match="version 9 of the registered model 'nobody'"):
        registry.experts.get("nobody", 9)


def test_the_same_files_are_the_same_candidate_until_that_is_decided_against(registry):
    first = register_candidate(registry, "twice")
    assert registry.merged.of("twice") == (first,)
    location, run = first.location, first.run_id
    assert registry.merged.register("twice", location, run, first.tags, "words") == first

    registry.merged.settle(first, "rejected", "Odd flips.")
    again = registry.merged.register("twice", location, run, first.tags, "words")
    assert again.version == first.version + 1
    assert again.status == "candidate"


def test_a_review_writes_the_decision_last_and_is_taken_once(registry, calls):
    candidate = register_candidate(registry, "reviewed")
    registry.merged.review(candidate, "approved", "ada", "Reads well.")
    assert calls == ["merge.decided", "merge.decided-by", "merge.review-reason", "approval_status"]

    registry.merged.settle(candidate, "promoted", "Approved.")
    promoted = registry.merged.get("reviewed", candidate.version)
    with pytest.raises(Refused, match="is promoted, so it cannot be rejected"):
        registry.merged.review(promoted, "rejected", "bob", "Changed my mind.")
    assert registry.merged.get("reviewed", candidate.version) == promoted


def test_an_alias_is_moved_and_removed_only_where_it_is_elsewhere(registry, client, monkeypatch):
    assert registry.merged.aliases("no-such-family") == {}
    version = register_candidate(registry, "aliased").version
    registry.merged.point("aliased", {"champion": version})
    assert registry.merged.aliases("aliased") == {"champion": version}

    monkeypatch.setattr(client, "set_registered_model_alias", None)
    registry.merged.point("aliased", {"champion": version})

    registry.merged.point("aliased", {"champion": None})
    assert registry.merged.aliases("aliased") == {}


def test_a_run_is_logged_once_and_never_more_losses_than_mlflow_takes(
    registry, client, tmp_path: Path
):
    (tmp_path / "report.html").write_text("<p>")
    record = RunRecord(
        family="logged",
        build_key="key",
        title="relearn: food",
        verdict="passed",
        settings={"rung": "relearn", "steps": "2000"},
        metrics={PASSED: 1.0},
        losses=[(step, 1.0 / step) for step in range(1, 2001)],
        examples=[UsedExamples("food", "gate", "d" * 64, "s3://bucket/x", count=100)],
        report=tmp_path,
    )
    run_id = registry.runs.record(record)

    assert registry.runs.record(record) == run_id
    assert registry.client.get_run(run_id).data.metrics[PASSED] == 1.0
    assert 500 < len(client.get_metric_history(run_id, LOSS)) < 1000
    experiment = client.get_experiment_by_name("supermerge/logged")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["merge.verdict"] == "passed"
    assert run.inputs.dataset_inputs[0].dataset.name == "food gate"
    assert registry.runs.page(run_id).endswith(f"/runs/{run_id}/artifacts")


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, Unreadable), (404, Unreadable), (429, Unavailable), (500, Unavailable)],
)
def test_what_mlflow_refuses_is_told_from_what_passes(status, error):
    answers = httpx.MockTransport(lambda _: httpx.Response(status, text="no"))
    client = RestClient("http://localhost", transport=answers)
    with pytest.raises(error, match=f"answered {status}"):
        client.search_registered_models()
