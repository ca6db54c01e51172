"""The stack comes up once, is repaired, keeps what it knows over a restart, and lets in no one."""

from __future__ import annotations

import time
from pathlib import Path

import boto3
import botocore.exceptions
import httpx
import psutil
import pytest
from typer.testing import CliRunner

from infra.events.webhooks import NAME
from infra.settings import Settings
from infra.stack import stack_status, start_stack, stop_stack
from infra.stack.orchestration import POOL
from infra.stack.supervise import has_ended
from tests.e2e.servers import SERVED, served_families

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _as_it_was_started(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver of the tests' stack listens for fewer families than the tests know."""
    monkeypatch.setenv("SUPERMERGE_FAMILIES_DIR", str(served_families(stack.state_dir.parent)))


def pids(state_dir: Path) -> dict[str, int | None]:
    return {part.title: part.pid for part in stack_status(state_dir)}


def prefect(settings: Settings, path: str) -> httpx.Response:
    return httpx.get(f"{settings.prefect_api}/{path}").raise_for_status()


def test_a_second_up_changes_nothing(stack: Settings) -> None:
    before = pids(stack.state_dir)
    assert start_stack(stack.state_dir) == Settings.load(stack.state_dir)
    assert pids(stack.state_dir) == before
    assert all(part.up for part in stack_status(stack.state_dir))
    hooks = httpx.get(f"{stack.mlflow_uri}/api/2.0/mlflow/webhooks").json()["webhooks"]
    assert [hook["name"] for hook in hooks] == [NAME]


@pytest.mark.alone
def test_up_repairs_what_died(stack: Settings) -> None:
    before = pids(stack.state_dir)
    for title in ("MLflow", "Prefect worker"):
        process = psutil.Process(before[title])
        process.kill()
        while not has_ended(process):
            time.sleep(0.05)
    start_stack(stack.state_dir)
    after = pids(stack.state_dir)
    assert {title for title in before if after[title] != before[title]} == {
        "MLflow",
        "Prefect worker",
    }
    assert all(part.up for part in stack_status(stack.state_dir))


@pytest.mark.alone
def test_down_ends_everything_and_the_next_up_knows_everything(stack: Settings) -> None:
    models = f"{stack.mlflow_uri}/api/2.0/mlflow/registered-models"
    httpx.post(f"{models}/create", json={"name": "kept"}).raise_for_status()
    client(stack).put_object(Bucket=stack.bucket, Key="kept", Body=b"kept")
    known = Settings.load(stack.state_dir)
    started = [psutil.Process(pid) for pid in pids(stack.state_dir).values()]

    stop_stack(stack.state_dir)
    assert all(map(has_ended, started))
    assert not any(part.up for part in stack_status(stack.state_dir))
    stop_stack(stack.state_dir)

    assert start_stack(stack.state_dir) == known
    assert httpx.get(f"{models}/get", params={"name": "kept"}).is_success
    assert client(stack).get_object(Bucket=stack.bucket, Key="kept")["Body"].read() == b"kept"


def test_prefect_knows_each_familys_deployments_its_line_and_the_end_of_zombies(
    stack: Settings,
) -> None:
    for family in SERVED:
        for flow in ("continual-merge", "promote", "rollback", "audit", "gc"):
            found = prefect(stack, f"deployments/name/{flow}/{family}").json()
            assert (found["status"], found["parameters"]) == ("READY", {"family": family})
        line = prefect(stack, f"work_pools/{POOL}/queues/supermerge-{family}").json()
        assert line["concurrency_limit"] == 1
    automations = httpx.post(f"{stack.prefect_api}/automations/filter", json={}).json()
    assert sum("heartbeat" in automation["name"] for automation in automations) == 1


def test_the_pages_of_prefect_ask_their_own_server(stack: Settings) -> None:
    root = stack.prefect_api.removesuffix("/api")
    assert httpx.get(f"{root}/ui-settings").json()["api_url"] == stack.prefect_api
    elsewhere = {"Origin": "https://example.org"}
    answer = httpx.get(f"{stack.prefect_api}/health", headers=elsewhere)
    assert "access-control-allow-origin" not in answer.headers


def test_the_command_shows_where_everything_is(
    stack: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.cli import app, output

    monkeypatch.setattr(output.console, "width", 400)
    shown = CliRunner().invoke(app, ["up"]).output
    for part in stack_status(stack.state_dir):
        assert part.address in shown
    for secret in (stack.s3_secret_key, stack.webhook_secret):
        assert secret.get_secret_value() not in shown


def test_s3_refuses_those_without_the_key(stack: Settings) -> None:
    assert httpx.get(f"{stack.s3_endpoint}/{stack.bucket}").status_code == 403
    with pytest.raises(botocore.exceptions.ClientError, match="403"):
        client(stack, secret="wrong").head_bucket(Bucket=stack.bucket)


def client(stack: Settings, secret: str | None = None):
    return boto3.client(
        "s3",
        endpoint_url=stack.s3_endpoint,
        region_name=stack.s3_region,
        aws_access_key_id=stack.s3_access_key.get_secret_value(),
        aws_secret_access_key=secret or stack.s3_secret_key.get_secret_value(),
    )
