"""MLflow's webhooks, both ends: making a server send them, and telling them from forgeries."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from infra.errors import Refused, Unavailable
from infra.faults import from_http
from infra.servers import mlflow_server
from infra.settings import Settings

NAME = "supermerge"
EVENTS = [
    {"entity": "MODEL_VERSION", "action": "CREATED"},
    {"entity": "MODEL_VERSION_TAG", "action": "SET"},
]
MAX_AGE = 300
"""Seconds that a message may be older or newer than the clock says. MLflow's retries keep the time of
the first try."""
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")
_SECONDS = re.compile(r"[0-9]{1,12}")


def register_webhook(settings: Settings) -> None:
    """Creates the webhook, or brings the one of the same name up to date; safe to repeat.

    Raises:
        Unavailable: MLflow does not answer or refuses; carries what it said.
    """
    if settings.receiver_url is None or settings.webhook_secret is None:
        raise Unavailable(
            "Webhooks need an address and a secret.",
            "Set SUPERMERGE_RECEIVER_URL and SUPERMERGE_WEBHOOK_SECRET.",
        )
    wanted = {
        "name": NAME,
        "url": f"{settings.receiver_url}/mlflow",
        "events": EVENTS,
        # It cannot be read back and compared, so it is written each time.
        "secret": settings.webhook_secret.get_secret_value(),
        "status": "ACTIVE",
        "description": "Starts merges and promotions.",
    }
    hooks = f"{settings.mlflow_uri}/api/2.0/mlflow/webhooks"
    try:
        with httpx.Client(auth=settings.mlflow_login, timeout=30) as client:
            known = [hook for hook in _all_hooks(client, hooks) if hook["name"] == NAME]
            if known:
                answer = client.patch(f"{hooks}/{known[0]['webhook_id']}", json=wanted)
            else:
                answer = client.post(hooks, json=wanted)
            answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.BAD_REQUEST:
            raise from_http(error, mlflow_server(settings.mlflow_uri)) from None
        raise Unavailable(
            f"MLflow at {settings.mlflow_uri} refused the webhook to {wanted['url']} "
            f"({error.response.status_code}): {error.response.text[:500]}",
            "It takes https addresses that are not private, unless its server runs with "
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES and MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS.",
        ) from None
    except httpx.HTTPError as error:
        raise from_http(error, mlflow_server(settings.mlflow_uri)) from None


def try_webhook(settings: Settings) -> None:
    """Has MLflow send a message to the receiver, which answers it where it is genuine.

    Raises:
        Refused: There is no such webhook, or the message did not arrive.
        Unavailable: MLflow does not answer.
    """
    hooks = f"{settings.mlflow_uri}/api/2.0/mlflow/webhooks"
    try:
        with httpx.Client(auth=settings.mlflow_login, timeout=60) as client:
            known = [hook for hook in _all_hooks(client, hooks) if hook["name"] == NAME]
            if not known:
                raise Refused("MLflow has no webhook for the queue.", "Run `supermerge up`.")
            answer = client.post(f"{hooks}/{known[0]['webhook_id']}/test", json={})
            result = answer.raise_for_status().json()["result"]
    except httpx.HTTPError as error:
        raise from_http(error, mlflow_server(settings.mlflow_uri)) from None
    if not result.get("success"):
        said = result.get("error_message") or result.get("response_status")
        advice = "See that MLflow reaches that address, and that the receiver runs there."
        if result.get("response_status") == httpx.codes.UNAUTHORIZED:
            advice = "They have different secrets or clocks: `supermerge up` renews the secret."
        raise Refused(
            f"MLflow's message to {known[0]['url']} did not arrive ({str(said)[:500]}).", advice
        )


def check_headers(headers: Mapping[str, str], now: float) -> None:
    """Refuses what cannot be genuine whatever its body is, so that nobody has to read that.

    Args:
        headers: The request's headers, by names in lower case.
        now: Seconds since the epoch.

    Raises:
        Refused: The message carries no signature, or is too old or from the future.
    """
    signed_at = headers.get("x-mlflow-timestamp", "")
    if not _SIGNATURE.fullmatch(headers.get("x-mlflow-signature", "")):
        raise _forged()
    if not (_SECONDS.fullmatch(signed_at) and abs(now - int(signed_at)) <= MAX_AGE):
        raise Refused(
            f"The message is older than {MAX_AGE} s.", "Check the clocks of both machines."
        )


def verify(secret: SecretStr, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The delivery id of a genuine and recent message.

    Args:
        secret: What MLflow signs with.
        headers: The request's headers, by names in lower case.
        body: The raw bytes, as they were signed.
        now: Seconds since the epoch.

    Raises:
        Refused: The signature is wrong or missing, or the message too old or from the future.
    """
    check_headers(headers, now)
    delivery = headers.get("x-mlflow-delivery-id", "")
    signed = f"{delivery}.{headers['x-mlflow-timestamp']}.".encode() + body
    digest = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    if not hmac.compare_digest(expected, headers["x-mlflow-signature"].encode()):
        raise _forged()
    return delivery


def _forged() -> Refused:
    return Refused(
        "The signature is wrong or missing.", "Run `supermerge up` to renew the webhook."
    )


def _all_hooks(client: httpx.Client, hooks: str) -> list[dict[str, Any]]:
    known: list[dict[str, Any]] = []
    token = ""
    while True:
        page = client.get(hooks, params={"page_token": token} if token else {})
        page.raise_for_status()
        known += page.json().get("webhooks", [])
        token = page.json().get("next_page_token", "")
        if not token:
            return known
