"""The receiver does what its own OpenAPI description says, whatever is sent to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from infra.events.receiver import create_app
from infra.settings import Settings

SECRET = "shared"
# A status that is not described fails, and 500 is not.
CHECKS = [status_code_conformance, response_schema_conformance]


CALLS = ("GET /health", "GET /readyz", "POST /mlflow")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One without families, so that nothing concerns the queue, and without servers."""
    settings = Settings(
        mlflow_uri="http://127.0.0.1:9",
        prefect_api="http://127.0.0.1:9/api",
        webhook_secret=SECRET,
        families_dir=tmp_path_factory.mktemp("families"),
    )
    with TestClient(create_app(settings), raise_server_exceptions=True) as client:
        yield client


def sign(body: bytes) -> dict[str, str]:
    now = str(int(time.time()))
    digest = hmac.new(SECRET.encode(), f"d-1.{now}.".encode() + body, hashlib.sha256).digest()
    return {
        "x-mlflow-delivery-id": "d-1",
        "x-mlflow-timestamp": now,
        "x-mlflow-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


@pytest.mark.parametrize("path", ["/health", "/readyz"])
def test_what_strangers_may_ask_is_answered_as_described(client: TestClient, path: str) -> None:
    case = schemathesis.openapi.from_dict(client.app.openapi())[path]["GET"].Case()
    case.validate_response(client.get(path), checks=CHECKS)


@pytest.mark.parametrize(
    ("mode", "signed"),
    [
        (GenerationMode.POSITIVE, True),
        (GenerationMode.NEGATIVE, True),
        (GenerationMode.NEGATIVE, False),
    ],
)
def test_any_message_is_answered_as_described(
    client: TestClient, mode: GenerationMode, signed: bool
) -> None:
    operation = schemathesis.openapi.from_dict(client.app.openapi())["/mlflow"]["POST"]
    answered = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=50)
    def answers(case: schemathesis.Case) -> None:
        case.operation.base_url = "http://testserver"
        sent = requests.Request(**case.as_transport_kwargs()).prepare()
        body = sent.body if isinstance(sent.body, bytes) else (sent.body or "").encode()
        headers = dict(sent.headers) | (sign(body) if signed else {})
        answer = client.request(sent.method, sent.url, content=body, headers=headers)
        case.validate_response(answer, checks=CHECKS)
        answered.add(answer.status_code)

    answers()
    assert (204 in answered) == signed
