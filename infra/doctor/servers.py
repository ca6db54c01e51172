"""MLflow, Prefect, the receiver, and the processes of the embedded stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import version

import httpx

from infra.doctor.finding import Finding, carried_out, compare_clocks
from infra.events.webhooks import try_webhook
from infra.families import Family
from infra.faults import from_http
from infra.servers import Server, mlflow_server, prefect_server
from infra.settings import Settings
from infra.stack import stack_status
from infra.stack.deployments import families_deployed
from infra.stack.orchestration import POOL, check_prefect
from infra.stack.registry import check_registry, why_no_webhook

_TIMEOUT = 10.0  # Seconds that a server may take to answer.


def look_at_parts(settings: Settings) -> Iterator[Finding]:
    """Whether each process of the embedded stack runs and answers."""
    for part in stack_status(settings.state_dir):
        if part.up:
            yield Finding(part.title, f"It is up, at {part.address}.")
        else:
            found = f"It is down; what it said last is at the end of {part.log}."
            yield Finding(part.title, found, "fault", "Start it with `supermerge up`.")


def look_at_mlflow(settings: Settings) -> Iterator[Finding]:
    """Whether MLflow lets us in, which version it has, and that its messages arrive."""
    check_registry(settings)
    if not settings.mlflow_uri.startswith("http"):
        yield Finding("MLflow", f"It is a database file, {settings.mlflow_uri}.")
        return
    server = mlflow_server(settings.mlflow_uri)
    answer = _ask(server, "/version", settings.mlflow_login)
    yield from _compare_versions("MLflow", "mlflow", answer)
    yield from _clock("MLflow", answer)
    yield from carried_out("webhook", partial(_look_at_webhook, settings))


def _look_at_webhook(settings: Settings) -> Iterator[Finding]:
    if unreached := why_no_webhook(settings, mlflow_server(settings.mlflow_uri).is_embedded):
        yield Finding("webhook", f"{unreached}.", "worth knowing")
    else:
        try_webhook(settings)
        found = f"A message of MLflow's arrived at {settings.receiver_url} and was genuine."
        yield Finding("webhook", found)
        yield from _look_at_receiver(f"{settings.receiver_url}/readyz")


def _look_at_receiver(address: str) -> Iterator[Finding]:
    """Whether the receiver can hand on what arrives; where only MLflow reaches it, it is not asked."""
    with suppress(httpx.TransportError):
        answer = httpx.get(address, timeout=_TIMEOUT)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            found = f"The receiver cannot hand on what arrives: {answer.text[:300]}."
            yield Finding("webhook", found, "fault", "See that it reaches MLflow and Prefect.")


def look_at_prefect(settings: Settings, families: Sequence[Family]) -> Iterator[Finding]:
    """Whether Prefect lets us in, has which version and each family, and a worker takes its runs."""
    server = prefect_server(settings.prefect_api)
    check_prefect(settings)
    answer = _ask(server, "/admin/version", settings.prefect_login)
    yield from _compare_versions("Prefect", "prefect", answer)
    yield from _clock("Prefect", answer)
    there = families_deployed(settings) if families else set()
    for family in families:
        if family.name not in there:
            found = "Prefect has no deployments of it: nothing starts its merges."
            yield Finding(f"family {family.name}", found, "fault", "Run `supermerge deploy`.")
    workers = f"/work_pools/{POOL}/workers/filter"
    answer = _ask(server, workers, settings.prefect_login, "POST")
    if answer.status_code == httpx.codes.NOT_FOUND:
        yield Finding("worker", f"There is no work pool {POOL!r}.", "fault", "Run `supermerge up`.")
    elif any(worker.get("status") == "ONLINE" for worker in answer.json()):
        yield Finding("worker", f"One is there for the pool {POOL!r}.")
    else:
        remedy = (
            f"Run `supermerge up`, or `prefect worker start --pool={POOL}` where flows shall run."
        )
        yield Finding("worker", f"None is there for the pool {POOL!r}.", "fault", remedy)


def _ask(
    server: Server, path: str, login: tuple[str, str] | None, method: str = "GET"
) -> httpx.Response:
    try:
        answer = httpx.request(
            method,
            f"{server.address}{path}",
            auth=login,
            timeout=_TIMEOUT,
            json={} if method == "POST" else None,
        )
    except httpx.HTTPError as error:
        raise from_http(error, server) from error
    if answer.is_success or answer.status_code == httpx.codes.NOT_FOUND:
        return answer
    raise server.answered(answer.status_code, path, answer.text)


def _compare_versions(title: str, package: str, answer: httpx.Response) -> Iterator[Finding]:
    theirs, ours = answer.text.strip().strip('"'), version(package)
    if not answer.is_success or not theirs[:1].isdigit():
        yield Finding(title, "It lets us in, and does not say which version it has.")
    elif theirs.split(".")[:2] == ours.split(".")[:2]:
        yield Finding(title, f"It lets us in; version {theirs}.")
    else:
        found = f"The server has version {theirs}, the queue was made for {ours}."
        yield Finding(title, found, "worth knowing", "Bring both to the same minor version.")


def _clock(title: str, answer: httpx.Response) -> Iterator[Finding]:
    if date := answer.headers.get("date"):
        yield from compare_clocks(title, parsedate_to_datetime(date), datetime.now(UTC))
