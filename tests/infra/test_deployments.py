"""prefect.yaml names flows that exist, with parameters that they take, for every family."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint

from infra.families import Family, load_family
from infra.settings import PROJECT
from infra.stack import deployments
from infra.stack.deployments import fill_in
from infra.stack.orchestration import DECISIONS, POOL
from merging.errors import InvalidInput

DEMO = load_family("demo", PROJECT / "infra" / "families")


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    path, _, function = deployment["entrypoint"].partition(":")
    return load_flow_from_entrypoint(f"{PROJECT / path}:{function}")


def filled(**changes: Any) -> dict[str, dict[str, Any]]:
    family = Family.model_validate(DEMO.model_dump(mode="json") | changes)
    return {flow_of(d).name: d for d in fill_in(family, PROJECT)}


FILLED = filled()
every_flow = pytest.mark.parametrize("flow", sorted(FILLED))


@pytest.mark.parametrize("content", [b"\xff", b"pull: [", b"[]", b"deployments: []"])
def test_a_prefect_yaml_that_nothing_can_be_deployed_from_is_named(tmp_path, monkeypatch, content):
    file = tmp_path / "prefect.yaml"
    file.write_bytes(content)
    monkeypatch.setattr(deployments, "deployments_file", lambda: file)
    with pytest.raises(InvalidInput, match=r"prefect\.yaml: expected YAML with `pull`"):
        fill_in(DEMO, PROJECT)


def test_each_family_has_five_deployments_with_its_name() -> None:
    assert set(FILLED) == {"continual-merge", "promote", "rollback", "audit", "gc"}
    assert {(d["name"], d["parameters"]["family"]) for d in FILLED.values()} == {("demo", "demo")}


def test_what_takes_long_waits_in_the_familys_line_and_what_people_decided_does_not() -> None:
    line = {"name": POOL, "work_queue_name": "supermerge-demo"}
    at_once = {"name": POOL, "work_queue_name": DECISIONS}
    assert {flow: d["work_pool"] for flow, d in FILLED.items()} == {
        "continual-merge": line,
        "audit": line,
        "gc": line,
        "promote": at_once,
        "rollback": at_once,
    }


@every_flow
def test_schedules_and_triggers_give_exactly_what_the_flow_needs(flow: str) -> None:
    deployment = FILLED[flow]
    signature = inspect.signature(flow_of(deployment).fn)
    for source in [{}, *deployment["schedules"], *deployment.get("triggers", [])]:
        given = deployment["parameters"] | source.get("parameters", {})
        if flow != "promote" or source:  # By hand a person says which version.
            signature.bind(**given)


@every_flow
def test_triggers_are_what_prefect_understands_and_of_the_family_alone(flow: str) -> None:
    for trigger in FILLED[flow].get("triggers", []):
        DeploymentEventTrigger.model_validate({k: v for k, v in trigger.items() if k != "type"})
        assert trigger["match"] == {"prefect.resource.id": "supermerge.family.demo"}


def test_schedules_are_the_familys_or_none() -> None:
    for deployment in FILLED.values():
        for schedule in deployment["schedules"]:
            CronSchedule(cron=schedule["cron"])
    other = filled(schedule="7 * * * *", audit_schedule=None)
    assert [s["cron"] for s in other["continual-merge"]["schedules"]] == ["7 * * * *"]
    assert other["audit"]["schedules"] == []


def test_what_changes_the_deployments_changes_their_version_and_nothing_else_does() -> None:
    version = FILLED["audit"]["version"]
    assert filled(gate={"margin": 0.01})["audit"]["version"] == version
    assert filled(schedule="7 * * * *")["audit"]["version"] != version
    assert fill_in(DEMO, PROJECT / "elsewhere")[0]["version"] != version


def test_no_path_of_a_machine_is_written_down() -> None:
    (step,) = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["pull"]
    (arguments,) = step.values()
    assert arguments["directory"] == "{{ $SUPERMERGE_PROJECT_DIR }}"
