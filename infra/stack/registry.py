"""MLflow as the stack meets it: whether it lets us in, and whether it can reach the receiver."""

from __future__ import annotations

import httpx

from infra.faults import from_http
from infra.servers import mlflow_server
from infra.settings import Settings, is_given

_TIMEOUT = 30.0  # Seconds that MLflow may take to answer.


def check_registry(settings: Settings) -> None:
    """Shows that MLflow answers and takes the name and the password.

    Raises:
        Unavailable: It does not.
    """
    if not settings.mlflow_uri.startswith("http"):
        return
    server = mlflow_server(settings.mlflow_uri)
    call = f"{settings.mlflow_uri}/api/2.0/mlflow/registered-models/search"
    try:
        answer = httpx.get(
            call, params={"max_results": 1}, auth=settings.mlflow_login, timeout=_TIMEOUT
        )
    except httpx.HTTPError as error:
        raise from_http(error, server) from error
    if answer.status_code == httpx.codes.NOT_FOUND or not _is_json(answer):
        raise server.strange(f"{answer.status_code}: {answer.text[:100]}")
    if not answer.is_success:
        raise server.answered(answer.status_code, "a search for models", answer.text)


def why_no_webhook(settings: Settings, embedded: bool) -> str | None:
    """Why MLflow is not asked to send webhooks; None where it is.

    Args:
        settings: Where MLflow and the receiver are.
        embedded: Whether MLflow runs on this machine, and so reaches the receiver of the stack.
    """
    if not settings.mlflow_uri.startswith("http"):
        return "No webhooks: MLflow is a database file; the schedule starts every merge"
    if not embedded and not is_given("receiver_url"):
        return (
            "No webhooks: the schedule starts every merge, unless SUPERMERGE_RECEIVER_URL says where "
            "MLflow reaches the receiver"
        )
    return None


def _is_json(answer: httpx.Response) -> bool:
    """A login page is no answer, even where it comes with a good status; an error may have any form."""
    return answer.is_error or answer.headers.get("content-type", "").startswith("application/json")
