"""With MLflow's basic authentication on, the whole queue works, and only for those who may."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import httpx
import pytest

from infra.settings import Settings
from infra.stack import start_stack

pytestmark = pytest.mark.e2e

TRAINER, PASSWORD = "trainer", "a-long-enough-password"
PATIENCE = 300  # seconds; only says when to give up


@pytest.fixture
def guarded(stack: Settings, queue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The stack with authentication and the receiver listening; as it was again afterwards."""
    served = stack.families_dir.parent / "served"
    shutil.copy(stack.families_dir / f"{queue.name}.yaml", served)
    monkeypatch.setenv("SUPERMERGE_FAMILIES_DIR", str(served))
    settings = start_stack(stack.state_dir, mlflow_auth=True)
    settings.apply()
    try:
        yield settings
    finally:
        start_stack(stack.state_dir, mlflow_auth=False)
        del os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]


@pytest.fixture
def trainer(guarded: Settings) -> None:
    """A user who may read everything and change what is theirs."""
    user = {"username": TRAINER, "password": PASSWORD}
    address = f"{guarded.mlflow_uri}/api/2.0/mlflow/users/create"
    httpx.post(address, json=user, auth=guarded.mlflow_login).raise_for_status()


@pytest.mark.usefixtures("trainer")
def test_a_trainer_lands_an_expert_and_decides_nothing(
    guarded: Settings, queue, expert, land, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    assert httpx.get(f"{guarded.mlflow_uri}/").status_code == 401
    search = f"{guarded.mlflow_uri}/api/2.0/mlflow/registered-models/search"
    assert httpx.get(search).status_code == 401

    with monkeypatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_USERNAME", TRAINER)
        environment.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        land(queue, "weather", expert("weather"))

    deadline = time.monotonic() + PATIENCE
    while queue.promotions.newest() is None and time.monotonic() < deadline:
        time.sleep(1)
    promoted = queue.promotions.newest()
    assert promoted is not None, "the webhook, the receiver and the flow work with authentication"

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", TRAINER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    client, version = MlflowClient(), str(promoted.version)
    with pytest.raises(MlflowException, match=r"403|PERMISSION_DENIED|Permission denied"):
        client.set_model_version_tag(queue.name, version, "approval_status", "approved")
    with pytest.raises(MlflowException, match=r"403|PERMISSION_DENIED|Permission denied"):
        client.set_registered_model_alias(queue.name, "champion", version)
