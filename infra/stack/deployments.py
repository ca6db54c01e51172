"""The deployments of every family: prefect.yaml, filled in from the family's file."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from infra.errors import Unavailable
from infra.families import Family, load_family
from infra.names import limit_name
from infra.settings import Settings, deployments_file
from infra.shell import CLIENT_DEFAULTS
from infra.stack.orchestration import POOL, ask, prefect_client
from infra.warm.environment import OUTSIDE, without_secrets
from merging.errors import InvalidInput

TAG = "supermerge"
"""What every deployment of this project is tagged with."""
_PAGE = 200  # The most that Prefect lists at once.


def deploy_families(
    settings: Settings, families: Iterable[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Gives each family its deployments, schedules, triggers and its line; yields what was done.

    Importing every flow takes longer than starting any server, so families that Prefect has in this
    very form are left alone.

    Args:
        settings: Which Prefect, which project and which families.
        families: Some of them; all by default.

    Yields:
        The name of a family and what became of it, in words.

    Raises:
        Unavailable: Prefect does not answer, or refused the file; carries what it said.
    """
    wanted: dict[str, list[dict[str, Any]]] = {}
    with prefect_client(settings) as client:
        there = _deployments(client)
        for deployment in there:
            if "family" not in deployment["parameters"]:  # An earlier release's, for all families.
                owner = f"prefect.deployment.{deployment['id']}"
                ask(client, "DELETE", f"/automations/owned-by/{owner}")
                ask(client, "DELETE", f"/deployments/{deployment['id']}")
        known = {(d["name"], d["entrypoint"], d["version"]) for d in there}
        for name in settings.family_names() if families is None else families:
            try:
                filled = fill_in(load_family(name, settings.families_dir), settings.project_dir)
            except InvalidInput as error:
                yield name, f"not deployed: {error}"
                continue
            if known.issuperset((name, d["entrypoint"], d["version"]) for d in filled):
                yield name, "deployed already"
            else:
                wanted[name] = filled
        if wanted:
            _apply(settings, [deployment for filled in wanted.values() for deployment in filled])
        for name in wanted:
            queue = f"/work_pools/{POOL}/queues/{limit_name(name)}"
            ask(client, "PATCH", queue, {"concurrency_limit": 1})
            yield name, "deployed"


def families_deployed(settings: Settings) -> set[str]:
    """The families that Prefect has deployments of, in whatever form.

    Raises:
        Unavailable: Prefect does not answer.
    """
    with prefect_client(settings) as client:
        return {deployment["name"] for deployment in _deployments(client)}


def fill_in(family: Family, project: Path) -> list[dict[str, Any]]:
    """The deployments of one family as prefect.yaml has them, each with the version of its content."""
    values = {
        "SUPERMERGE_FAMILY": family.name,
        "SUPERMERGE_SCHEDULE": family.schedule or "",
        "SUPERMERGE_AUDIT_SCHEDULE": family.audit_schedule or "",
        "SUPERMERGE_GC_SCHEDULE": family.gc_schedule or "",
    }
    text = _text()
    for name, value in values.items():
        text = text.replace(f"{{{{ ${name} }}}}", value)
    digest = hashlib.sha256(f"{project}\0{text}".encode())
    for path in sorted((project / "flows").glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    deployments: list[dict[str, Any]] = _parsed(text)["deployments"]
    for deployment in deployments:
        schedules = deployment.get("schedules", [])
        deployment["schedules"] = [schedule for schedule in schedules if schedule["cron"]]
        deployment["version"] = digest.hexdigest()[:12]
    return deployments


def _text() -> str:
    try:
        return deployments_file().read_text()
    except UnicodeDecodeError as error:
        raise _malformed(error) from error


def _parsed(text: str) -> dict[str, Any]:
    """What prefect.yaml holds.

    Raises:
        InvalidInput: It is not what Prefect deploys from.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _malformed(error) from error
    if not isinstance(content, dict) or not {"pull", "deployments"} <= set(content):
        raise _malformed("something else")
    return content


def _malformed(found: object) -> InvalidInput:
    return InvalidInput(
        where=str(deployments_file()),
        expected="YAML with `pull` and `deployments`",
        found=str(found),
        remedy="Start from the prefect.yaml of this project, or remove the file to use that one.",
    )


def _deployments(client: httpx.Client) -> list[dict[str, Any]]:
    """Every deployment of this project."""
    found: list[dict[str, Any]] = []
    for offset in range(0, sys.maxsize, _PAGE):
        wanted = {"deployments": {"tags": {"all_": [TAG]}}, "limit": _PAGE, "offset": offset}
        page = ask(client, "POST", "/deployments/filter", wanted).json()
        found += page
        if len(page) < _PAGE:
            break
    return found


def _of_prefect(settings: Settings) -> dict[str, str]:
    """The variables by which a client of Prefect finds and opens it, and no other server."""
    every = settings.environment()
    return CLIENT_DEFAULTS | {n: value for n, value in every.items() if n.startswith("PREFECT_")}


def _apply(settings: Settings, deployments: list[dict[str, Any]]) -> None:
    pull = _parsed(_text())["pull"]
    path = settings.state_dir / "prefect.yaml"
    path.write_text(yaml.safe_dump({"pull": pull, "deployments": deployments}))
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt"),
            *("deploy", "--all", f"--prefect-file={path}"),
        ],
        cwd=settings.project_dir,
        env=without_secrets(os.environ, OUTSIDE) | _of_prefect(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise Unavailable(
            f"Prefect did not apply {path}:\n{finished.stdout}",
            "Correct what it names and run `supermerge deploy` again.",
        )
