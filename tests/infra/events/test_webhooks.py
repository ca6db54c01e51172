"""Only a message that MLflow signed, and signed lately, is genuine."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from pydantic import SecretStr

from infra.errors import Refused
from infra.events.webhooks import MAX_AGE, verify

SECRET = SecretStr("shared")
BODY = b'{"entity": "model_version"}'
NOW = 1_800_000_000


def sign(body: bytes = BODY, at: int = NOW, delivery: str = "d-1", secret: str = "shared") -> dict:
    signed = f"{delivery}.{at}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return {
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": str(at),
        "x-mlflow-signature": "v1," + base64.b64encode(digest).decode(),
    }


def test_a_genuine_message_gives_its_delivery_id() -> None:
    assert verify(SECRET, sign(), BODY, NOW) == "d-1"


def test_mlflow_signs_the_way_it_is_verified() -> None:
    from mlflow.webhooks.delivery import _generate_hmac_signature

    theirs = _generate_hmac_signature("shared", "d-1", str(NOW), BODY.decode())
    assert theirs == sign()["x-mlflow-signature"]


@pytest.mark.parametrize("missing", sorted(sign()))
def test_a_message_without_one_of_the_headers_is_refused(missing: str) -> None:
    headers = {name: value for name, value in sign().items() if name != missing}
    with pytest.raises(Refused):
        verify(SECRET, headers, BODY, NOW)


@pytest.mark.parametrize(
    "headers",
    [
        sign(secret="another"),
        sign(body=BODY + b" "),
        {**sign(), "x-mlflow-timestamp": str(NOW + 1)},
        {**sign(), "x-mlflow-delivery-id": "d-2"},
        {**sign(), "x-mlflow-signature": "v1,"},
        {**sign(), "x-mlflow-signature": "unsigned ü"},
    ],
)
def test_a_forged_or_altered_message_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Refused, match="signature"):
        verify(SECRET, headers, BODY, NOW)


@pytest.mark.parametrize("age", [-MAX_AGE - 1, MAX_AGE + 1, 10**9])
def test_a_replayed_or_future_message_is_refused(age: int) -> None:
    with pytest.raises(Refused, match="older"):
        verify(SECRET, sign(at=NOW - age), BODY, NOW)


@pytest.mark.parametrize("age", [-MAX_AGE, 0, MAX_AGE])
def test_clocks_may_differ_within_the_limit(age: int) -> None:
    assert verify(SECRET, sign(at=NOW - age), BODY, NOW)
