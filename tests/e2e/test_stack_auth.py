"""With MLflow's basic authentication on, the whole queue works, and only for those who may."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import httpx
import pytest

from infra.settings import Settings
from infra.stack import start_stack
from tests.docs.pages import blocks
from tests.e2e.servers import served_families

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

PATIENCE = 300  # seconds; only says when to give up


@pytest.fixture
def queue(new_queue):
    """One whose flows the worker can run."""
    return new_queue(served=True)


@pytest.fixture
def guarded(stack: Settings, queue, serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The stack with authentication and the receiver listening; as it was again afterwards."""
    families = served_families(stack.state_dir.parent)
    monkeypatch.setenv("SUPERMERGE_FAMILIES_DIR", str(families))
    settings = start_stack(stack.state_dir, mlflow_auth=True)
    settings.apply()
    try:
        with serve(queue):
            yield settings
    finally:
        start_stack(stack.state_dir, mlflow_auth=False)
        del os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]


@pytest.fixture
def users(guarded: Settings, queue) -> None:
    """The trainer and the reviewer that docs/operations.md makes, for this family."""
    (code,) = blocks("docs/operations.md", "python")
    code = code.replace("http://127.0.0.1:18300", guarded.mlflow_uri).replace(
        '"demo"', repr(queue.name)
    )
    exec(compile(code, "docs/operations.md", "exec"), {})


def log_in(monkeypatch: pytest.MonkeyPatch, name: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


@pytest.mark.usefixtures("users")
def test_a_trainer_lands_an_expert_and_decides_nothing(
    guarded: Settings, queue, expert, land, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from infra.queue import MergeQueue

    queue = MergeQueue.open(queue.name, guarded)  # Now with the name and password of the queue.
    assert httpx.get(f"{guarded.mlflow_uri}/").status_code == 401
    search = f"{guarded.mlflow_uri}/api/2.0/mlflow/registered-models/search"
    assert httpx.get(search).status_code == 401

    with monkeypatch.context() as environment:
        log_in(environment, "trainer", "a long password")
        land(queue, "weather", expert("weather"))

    deadline = time.monotonic() + PATIENCE
    while queue.promotions.newest() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    promoted = queue.promotions.newest()
    assert promoted is not None, "the webhook, the receiver and the flow work with authentication"

    log_in(monkeypatch, "trainer", "a long password")
    client, version = MlflowClient(), str(promoted.version)
    with pytest.raises(MlflowException, match=r"403|PERMISSION_DENIED|Permission denied"):
        client.set_model_version_tag(queue.name, version, "approval_status", "approved")
    with pytest.raises(MlflowException, match=r"403|PERMISSION_DENIED|Permission denied"):
        client.set_registered_model_alias(queue.name, "champion", version)

    log_in(monkeypatch, "reviewer", "another long password")
    client.set_model_version_tag(queue.name, version, "approval_status", "approved")
