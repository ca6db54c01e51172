"""The receiver lets in what MLflow signed, tells Prefect what concerns the queue, and no more."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from infra.events.bodies import MAX_BODY_BYTES
from infra.events.receiver import create_app
from infra.events.seldom import MOST
from infra.settings import Settings

SECRET = "shared"


@dataclass
class Servers:
    """Plays MLflow and Prefect on one port and keeps what it was sent."""

    events: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    status: int = 204
    found: int = 200
    answer: bytes | None = None
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        servers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if servers.status == 204:
                    servers.events.extend(json.loads(body))
                self.send_response(servers.status)
                self.end_headers()

            def do_GET(self) -> None:
                servers.asked.append(self.path)
                tags = [{"key": key, "value": value} for key, value in servers.tags.items()]
                answer = json.dumps({"model_version": {"tags": tags}}).encode()
                self.send_response(servers.found)
                self.end_headers()
                self.wfile.write(servers.answer or answer)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def servers() -> Iterator[Servers]:
    servers = Servers()
    with ThreadingHTTPServer(("127.0.0.1", 0), servers.handler()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.url = f"http://127.0.0.1:{server.server_port}"
        yield servers
        server.shutdown()


@pytest.fixture
def receiver(servers: Servers, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "demo.yaml").touch()
    settings = Settings(
        mlflow_uri=servers.url,
        prefect_api=f"{servers.url}/api",
        webhook_secret=SECRET,
        families_dir=tmp_path,
    )
    with TestClient(create_app(settings)) as client:
        yield client


def deliver(
    receiver: TestClient,
    entity: str,
    action: str,
    *,
    delivery: str = "d-1",
    secret: str = SECRET,
    age: int = 0,
    **data: object,
) -> httpx.Response:
    body = json.dumps({"entity": entity, "action": action, "timestamp": "now", "data": data})
    sent = str(int(time.time()) - age)
    signed = f"{delivery}.{sent}.{body}".encode()
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    headers = {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": sent,
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
    }
    return receiver.post("/mlflow", content=body, headers=headers)


def set_tag(receiver: TestClient, name: str, key: str, value: str) -> httpx.Response:
    version = {"name": name, "version": "3", "key": key, "value": value}
    return deliver(receiver, "model_version_tag", "set", **version)


WAITING = ("supermerge.expert.waiting", {"family": "demo"})


def told(servers: Servers) -> list[tuple[str, dict[str, Any]]]:
    return [(event["event"], event["payload"]) for event in servers.events]


def test_a_new_expert_makes_its_family_wait(receiver: TestClient, servers: Servers) -> None:
    tags = {"merge.family": "demo", "merge.task": "movie-review"}
    version = {"name": "expert", "version": "1", "source": "s3://b/x", "tags": tags}
    assert deliver(receiver, "model_version", "created", **version).status_code == 204
    assert told(servers) == [WAITING]
    (event,) = servers.events
    assert event["resource"] == {"prefect.resource.id": "supermerge.family.demo"}


def test_an_expert_that_is_tagged_later_makes_its_family_wait(
    receiver: TestClient, servers: Servers
) -> None:
    assert set_tag(receiver, "expert", "merge.family", "demo").status_code == 204
    assert told(servers) == [WAITING]


@pytest.mark.parametrize(
    ("tag", "value"), [("merge.status", "waiting"), ("merge.withdraw", "true")]
)
def test_an_expert_that_is_released_or_withdrawn_is_looked_up_in_mlflow(
    receiver: TestClient, servers: Servers, tag: str, value: str
) -> None:
    servers.tags = {"merge.family": "demo"}
    assert set_tag(receiver, "expert", tag, value).status_code == 204
    assert told(servers) == [WAITING]


@pytest.mark.parametrize("decision", ["approved", "rejected"])
def test_a_decision_names_the_version_as_a_number(
    receiver: TestClient, servers: Servers, decision: str
) -> None:
    assert set_tag(receiver, "demo", "approval_status", decision).status_code == 204
    assert told(servers) == [("supermerge.candidate.reviewed", {"family": "demo", "version": 3})]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("expert", "merge.family", "unknown"),
        ("expert", "merge.family", "../demo"),
        ("expert", "merge.family", ""),
        ("expert", "merge.status", "merged"),
        ("expert", "approval_status", "approved"),
        ("expert", "anything", "demo"),
    ],
)
def test_what_does_not_concern_the_queue_is_taken_and_forgotten(
    receiver: TestClient, servers: Servers, name: str, key: str, value: str
) -> None:
    assert set_tag(receiver, name, key, value).status_code == 204
    assert servers.events == []


def test_events_of_other_kinds_are_taken_and_forgotten(
    receiver: TestClient, servers: Servers
) -> None:
    alias = {"name": "demo", "alias": "champion", "version": "1"}
    assert deliver(receiver, "model_version_alias", "created", **alias).status_code == 204
    assert deliver(receiver, "model_version", "created", name="x").status_code == 204
    assert servers.events == []


def test_a_delivery_that_comes_twice_is_the_same_event(
    receiver: TestClient, servers: Servers
) -> None:
    for delivery in ("d-1", "d-1", "d-2"):
        tag = {"name": "e", "version": "3", "key": "merge.family", "value": "demo"}
        deliver(receiver, "model_version_tag", "set", delivery=delivery, **tag)
    first, again, other = (uuid.UUID(event["id"]) for event in servers.events)
    assert first == again != other


@pytest.mark.parametrize("wrong", [{"secret": "another"}, {"age": 3600}, {"age": -3600}])
def test_a_forged_or_replayed_message_gets_401(
    receiver: TestClient, servers: Servers, wrong: dict[str, Any]
) -> None:
    tag = {"name": "e", "version": "3", "key": "merge.family", "value": "demo"}
    assert deliver(receiver, "model_version_tag", "set", **wrong, **tag).status_code == 401
    assert receiver.post("/mlflow", content=b"{}").status_code == 401
    assert servers.events == []


def test_mlflow_is_asked_to_send_again_while_prefect_does_not_take_it(
    receiver: TestClient, servers: Servers
) -> None:
    servers.status = 500
    assert set_tag(receiver, "expert", "merge.family", "demo").status_code == 503


def claim(**changes: str) -> dict[str, str]:
    """Headers that look like MLflow's to who has not read the body yet."""
    headers = {
        "X-MLflow-Delivery-Id": "d-1",
        "X-MLflow-Timestamp": str(int(time.time())),
        "X-MLflow-Signature": f"v1,{'A' * 43}=",
    }
    return {**headers, **changes}


@pytest.mark.parametrize(
    "headers",
    [
        claim(**{"X-MLflow-Signature": ""}),
        claim(**{"X-MLflow-Signature": "v1,short="}),
        claim(**{"X-MLflow-Timestamp": "9" * 5000}),
        claim(**{"X-MLflow-Timestamp": "1"}),
    ],
)
def test_a_body_is_not_read_whose_headers_cannot_be_genuine(
    receiver: TestClient, headers: dict[str, str]
) -> None:
    assert receiver.post("/mlflow", content=b"x" * 100, headers=headers).status_code == 401


def test_a_body_beyond_the_limit_is_not_read(receiver: TestClient) -> None:
    long = b"x" * (MAX_BODY_BYTES + 1)
    assert receiver.post("/mlflow", content=long, headers=claim()).status_code == 413
    parts = iter([long[:65536]] * 40)
    assert receiver.post("/mlflow", content=parts, headers=claim()).status_code == 413


@pytest.mark.parametrize(
    "answer", [b"not JSON", b"{}", b'{"model_version": 3}', b'{"model_version": {"tags": [{}]}}']
)
def test_mlflow_is_asked_to_send_again_where_it_answers_nonsense(
    receiver: TestClient, servers: Servers, answer: bytes
) -> None:
    servers.answer = answer
    assert set_tag(receiver, "expert", "merge.status", "waiting").status_code == 503


def test_an_expert_that_was_deleted_meanwhile_concerns_nobody(
    receiver: TestClient, servers: Servers
) -> None:
    servers.found = 404
    assert set_tag(receiver, "expert", "merge.status", "waiting").status_code == 204
    assert servers.events == []


def test_it_is_ready_while_its_servers_answer(receiver: TestClient, servers: Servers) -> None:
    assert receiver.get("/readyz").json() == {"status": "ok"}
    assert receiver.get("/readyz").status_code == 200
    assert servers.asked == [
        "/api/2.0/mlflow/registered-models/search?max_results=1",
        "/api/health",
    ]


def test_it_is_not_ready_while_one_does_not(receiver: TestClient, servers: Servers) -> None:
    servers.found = 503
    answer = receiver.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "mlflow": "MLflow answers 503.",
        "prefect": "Prefect answers 503.",
    }


def test_strangers_cannot_fill_the_log(
    receiver: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    (seldom,) = logging.getLogger("uvicorn.error").filters
    seldom.clock = lambda: 60.0
    for _ in range(MOST + 30):
        receiver.post("/mlflow", content=b"{}")
    said = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(said) == MOST
    assert said[-1].endswith("(further ones are left out for a minute)")
    seldom.clock = lambda: 120.0
    receiver.post("/mlflow", content=b"{}")
    assert "refused" in caplog.records[-1].getMessage()


def test_health_is_open_and_nothing_else_is(receiver: TestClient) -> None:
    assert receiver.get("/health").status_code == 200
    assert receiver.get("/docs").status_code == 404
    assert receiver.get("/openapi.json").status_code == 404
