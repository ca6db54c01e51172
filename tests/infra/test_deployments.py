"""prefect.yaml names flows that exist, with parameters that they take."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint

from infra.settings import PROJECT
from infra.stack.parts import POOL

FILE = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in FILE["deployments"]}
every_deployment = pytest.mark.parametrize("name", sorted(DEPLOYMENTS))


def load(name: str) -> Flow[..., Any]:
    path, _, function = DEPLOYMENTS[name]["entrypoint"].partition(":")
    return load_flow_from_entrypoint(f"{PROJECT / path}:{function}")


def given_parameters(name: str) -> list[dict[str, Any]]:
    deployment = DEPLOYMENTS[name]
    sources = [*deployment.get("schedules", []), *deployment.get("triggers", [])]
    return [source["parameters"] for source in sources]


def test_the_four_deployments_are_there() -> None:
    assert set(DEPLOYMENTS) == {"continual-merge", "promote", "rollback", "audit"}


@every_deployment
def test_a_deployment_runs_the_flow_of_its_name_in_the_pool(name: str) -> None:
    assert load(name).name == name
    assert DEPLOYMENTS[name]["work_pool"]["name"] == POOL


@every_deployment
def test_schedules_and_triggers_give_exactly_what_the_flow_needs(name: str) -> None:
    signature = inspect.signature(load(name).fn)
    for parameters in given_parameters(name):
        signature.bind(**parameters)


@every_deployment
def test_triggers_are_what_prefect_understands(name: str) -> None:
    for trigger in DEPLOYMENTS[name].get("triggers", []):
        DeploymentEventTrigger.model_validate({k: v for k, v in trigger.items() if k != "type"})


@pytest.mark.parametrize("name", ["continual-merge", "audit"])
def test_every_shipped_family_is_scheduled(name: str) -> None:
    shipped = PROJECT / "infra" / "families"
    scheduled = {schedule["parameters"]["family"] for schedule in DEPLOYMENTS[name]["schedules"]}
    assert scheduled == {path.stem for path in shipped.glob("*.yaml")}


def test_no_path_of_a_machine_is_written_down() -> None:
    (step,) = FILE["pull"]
    (arguments,) = step.values()
    assert arguments["directory"] == "{{ $SUPERMERGE_PROJECT_DIR }}"
