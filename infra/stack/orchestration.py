"""What the Prefect server must hold before flows run: pool, limits, automation, deployments."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from infra.errors import Unavailable
from infra.names import limit_name
from infra.settings import Settings, deployments_file
from infra.stack.parts import POOL

ZOMBIES = "supermerge: mark runs without a heartbeat as crashed"
"""Name of the automation that does so."""
DEPLOYED = "supermerge_deployed"
"""Name of the Prefect variable that holds the digest of the deployed files."""
SILENCE = 90
"""Seconds without a heartbeat after which a run counts as dead; one is sent every 30."""


def prepare_prefect(settings: Settings) -> None:
    """Makes pool, one limit per family and the automation; what is there already stays."""
    with _client(settings) as client:
        if client.get(f"/work_pools/{POOL}").status_code == httpx.codes.NOT_FOUND:
            _post(client, "/work_pools/", {"name": POOL, "type": "process"})
        automations = _post(client, "/automations/filter", {}).json()
        if not any(automation["name"] == ZOMBIES for automation in automations):
            _post(client, "/automations/", _zombie_automation())
    create_family_limits(settings)


def set_run_command(settings: Settings, command: str) -> None:
    """Makes workers of the pool start flow runs with this command instead of a new interpreter."""
    template = _job_template(command)
    with _client(settings) as client:
        pool = client.get(f"/work_pools/{POOL}").raise_for_status().json()
        if pool["base_job_template"] != template:
            changes = {"base_job_template": template}
            client.patch(f"/work_pools/{POOL}", json=changes).raise_for_status()


def create_family_limits(settings: Settings, families: Iterable[str] | None = None) -> None:
    """One limit for each family file, or each of these; call it again when a family was added."""
    with _client(settings) as client:
        for family in settings.family_names() if families is None else families:
            name = limit_name(family)
            if client.get(f"/v2/concurrency_limits/{name}").status_code == httpx.codes.NOT_FOUND:
                limit = {"name": name, "limit": 1, "active": True}
                _post(client, "/v2/concurrency_limits/", limit)


def deploy_flows(settings: Settings) -> bool:
    """Applies prefect.yaml: deployments, schedules and triggers become as the file says.

    Importing every flow takes longer than starting any server, so nothing is done when the server
    already has these very files.

    Returns:
        Whether there was something to apply.

    Raises:
        Unavailable: Prefect refused the file; carries what it said.
    """
    digest = _digest_of_flows(settings.project_dir)
    with _client(settings) as client:
        deployed = client.get(f"/variables/name/{DEPLOYED}")
        if deployed.is_success and deployed.json()["value"] == digest:
            return False
        _run_deploy(settings)
        if deployed.is_success:
            client.patch(f"/variables/name/{DEPLOYED}", json={"value": digest}).raise_for_status()
        else:
            _post(client, "/variables/", {"name": DEPLOYED, "value": digest})
    return True


def _run_deploy(settings: Settings) -> None:
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt"),
            *("deploy", "--all", f"--prefect-file={deployments_file()}"),
        ],
        cwd=settings.project_dir,
        env={**os.environ, **settings.environment()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise Unavailable(
            f"Prefect did not apply {deployments_file()}:\n{finished.stdout}",
            "Correct what it names and run `supermerge up` again.",
        )


def _digest_of_flows(project: Path) -> str:
    digest = hashlib.sha256(str(project).encode())
    for path in (deployments_file(), *sorted((project / "flows").glob("*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


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
def _client(settings: Settings) -> Iterator[httpx.Client]:
    try:
        with httpx.Client(
            base_url=settings.prefect_api, auth=settings.prefect_login, timeout=30
        ) as client:
            yield client
    except httpx.HTTPError as error:
        raise Unavailable(
            f"Prefect at {settings.prefect_api} cannot be prepared: {error}.",
            "Check SUPERMERGE_PREFECT_API and SUPERMERGE_PREFECT_AUTH, or read its log.",
        ) from None


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    return client.post(path, json=body).raise_for_status()
