"""What the Prefect server must hold before flows are deployed: pool, queue of decisions, automation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from infra.faults import from_http
from infra.servers import prefect_server
from infra.settings import Settings

POOL = "supermerge"
"""The work pool of all flow runs."""
DECISIONS = "decisions"
"""The queue of what people decided, in that pool."""
ZOMBIES = "supermerge: mark runs without a heartbeat as crashed"
"""Name of the automation that does so."""
SILENCE = 90
"""Seconds without a heartbeat after which a run counts as dead; one is sent every 30."""
_WAITS = (0.2, 1.0, 3.0)  # Seconds before each further try.


def check_prefect(settings: Settings) -> None:
    """Shows that Prefect answers and lets us in, and that it is Prefect.

    Raises:
        Unavailable: It does not.
    """
    server = prefect_server(settings.prefect_api)
    with prefect_client(settings) as client:
        answer = client.post("/work_pools/filter", json={})
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise server.strange(f"404: {answer.text[:100]}")
        if not isinstance(answer.raise_for_status().json(), list):
            raise server.strange(answer.text[:100])


def prepare_prefect(settings: Settings) -> None:
    """Makes the pool, the queue of decisions and the automation; what is there already stays."""
    with prefect_client(settings) as client:
        pool = f"/work_pools/{POOL}"
        if client.get(pool).status_code == httpx.codes.NOT_FOUND:
            _post(client, "/work_pools/", {"name": POOL, "type": "process"})
        if client.get(f"{pool}/queues/{DECISIONS}").status_code == httpx.codes.NOT_FOUND:
            _post(client, f"{pool}/queues", {"name": DECISIONS, "priority": 1})
        automations = _post(client, "/automations/filter", {}).json()
        if not any(automation["name"] == ZOMBIES for automation in automations):
            _post(client, "/automations/", _zombie_automation())


def set_run_command(settings: Settings, command: str) -> None:
    """Makes workers of the pool start flow runs with this command instead of a new interpreter."""
    template = _job_template(command)
    with prefect_client(settings) as client:
        pool = client.get(f"/work_pools/{POOL}").raise_for_status().json()
        if pool["base_job_template"] != template:
            changes = {"base_job_template": template}
            client.patch(f"/work_pools/{POOL}", json=changes).raise_for_status()


def _job_template(command: str) -> dict[str, Any]:
    """What the process worker asks a pool for: a command, and variables beside its own."""
    variables: dict[str, Any] = {
        "command": {"type": "string", "default": command},
        "env": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
    }
    return {
        "job_configuration": {name: f"{{{{ {name} }}}}" for name in variables},
        "variables": {"type": "object", "properties": variables},
    }


def _zombie_automation() -> dict[str, Any]:
    ended = ("Completed", "Failed", "Cancelled", "Crashed")
    return {
        "name": ZOMBIES,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
            "for_each": ["prefect.resource.id"],
            "after": ["prefect.flow-run.heartbeat"],
            "expect": [
                "prefect.flow-run.heartbeat",
                *(f"prefect.flow-run.{state}" for state in ended),
            ],
            "threshold": 1,
            "within": SILENCE,
        },
        "actions": [
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"No heartbeat for {SILENCE} s: the process is gone.",
            }
        ],
    }


@contextmanager
def prefect_client(settings: Settings) -> Iterator[httpx.Client]:
    """Prefect's API.

    Raises:
        Unavailable: Prefect does not answer, or refuses what it is asked for.
    """
    try:
        with httpx.Client(
            base_url=settings.prefect_api, auth=settings.prefect_login, timeout=120
        ) as client:
            yield client
    except httpx.HTTPError as error:
        raise from_http(error, prefect_server(settings.prefect_api)) from None
    except ValueError as error:  # It is no JSON.
        raise prefect_server(settings.prefect_api).strange(error) from None


def ask(client: httpx.Client, method: str, path: str, body: Any = None) -> httpx.Response:
    """Prefect's answer; it is asked again where its database was locked for a moment (503).

    Raises:
        httpx.HTTPError: It does not answer, or refuses.
    """
    for wait in _WAITS:
        answer = client.request(method, path, json=body)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            return answer.raise_for_status()
        time.sleep(wait)
    return client.request(method, path, json=body).raise_for_status()


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    return ask(client, "POST", path, body)
