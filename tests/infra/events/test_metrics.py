"""What Prometheus is told, and that the alerts and the dashboard ask for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import promql_parser
import pytest
import yaml

from infra.errors import Unavailable
from infra.events.metrics import Metrics
from infra.events.runs import Ended, Runs
from infra.settings import CODE, Settings

FLOWS = sorted((CODE / "flows").glob("*.py"))
MONITORING = CODE / "infra" / "monitoring"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "families").mkdir()
    (tmp_path / "families/demo.yaml").write_text("name: demo\n")
    return Settings(
        mlflow_uri="http://127.0.0.1:9",
        prefect_api="http://127.0.0.1:9/api",
        families_dir=tmp_path / "families",
        store_dir=tmp_path / "store",
        state_dir=tmp_path,
    )


def served(settings: Settings) -> dict[str, str]:
    """The type of every metric, by name."""
    text = Metrics(settings).look().decode()
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))


def samples(settings: Settings) -> set[str]:
    """Every name that a query may ask for."""
    names = set()
    for name, kind in served(settings).items():
        names |= {f"{name}_sum", f"{name}_count"} if kind == "summary" else {name}
    return names


def alerts() -> Iterator[str]:
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "todo"}, rule["alert"]
            yield rule["expr"]


def panels() -> Iterator[str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


@pytest.mark.parametrize("queries", [alerts, panels])
def test_the_metrics_that_a_query_names_are_served(queries: Any, settings: Settings) -> None:
    there, asked = samples(settings), set()
    for query in queries():
        promql_parser.parse(query)
        asked |= set(re.findall(r"\bsupermerge_\w+", query))
    assert asked
    assert asked <= there


def test_every_metric_of_the_queue_is_on_the_dashboard(settings: Settings) -> None:
    ours = {name for name in samples(settings) if name.startswith("supermerge_")}
    shown = set(re.findall(r"\bsupermerge_\w+", " ".join(panels())))
    assert ours - shown == {"supermerge_log_entries"}


def test_every_counter_of_a_family_begins_at_zero(settings: Settings) -> None:
    """Otherwise the first failure of all is no increase."""
    text = Metrics(settings).look().decode()
    named = re.findall(r'@flow\(\s*name="([\w-]+)"', "".join(map(Path.read_text, FLOWS)))
    assert len(named) > 3
    for flow in named:
        for state in ("completed", "failed", "crashed", "cancelled"):
            run = f'family="demo",flow="{flow}",state="{state}"'
            assert f"supermerge_runs_total{{{run}}} 0.0" in text
    assert 'supermerge_verdicts_total{family="demo",verdict="passed"} 0.0' in text
    assert 'supermerge_deliveries_total{outcome="forged"} 0.0' in text


def test_what_cannot_be_read_is_said_and_has_no_value(settings: Settings) -> None:
    text = Metrics(settings).look().decode()
    assert 'supermerge_readable{family="demo",part="log"} 0.0' in text
    assert "supermerge_prefect_readable 0.0" in text
    assert "supermerge_candidates_to_review{" not in text


class Prefect:
    """Plays Prefect's filters with a page of two objects."""

    def __init__(self) -> None:
        self.flows = [{"id": str(UUID(int=1)), "name": "continual-merge"}]
        self.runs: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.status = 200

    def ends(self, number: int, state: str, family: str = "demo") -> None:
        key = str(UUID(int=number))
        self.runs.append(
            {
                "id": key,
                "flow_id": str(UUID(int=1)),
                "parameters": {"family": family},
                "state_type": state,
            }
        )
        self.steps.append({"name": "learn-0a1", "flow_run_id": key, "total_run_time": 2.5})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        kind = request.url.path.split("/")[-2]
        there = {"flows": self.flows, "flow_runs": self.runs, "task_runs": self.steps}[kind]
        if kind == "flow_runs":
            states = asked["flow_runs"]["state"]["type"]["any_"]
            there = [run for run in there if run["state_type"] in states]
        page = there[asked["offset"] : asked["offset"] + asked["limit"]]
        return httpx.Response(self.status, json=page)


def test_a_run_that_ended_is_counted_once_with_its_steps(settings: Settings) -> None:
    prefect = Prefect()
    runs = Runs(settings, httpx.MockTransport(prefect))
    prefect.ends(10, "FAILED")
    prefect.ends(11, "RUNNING")
    prefect.ends(12, "COMPLETED", family="somebody-elses")
    assert runs.ended() == (Ended("demo", "continual-merge", "failed", (("learn", 2.5),)),)
    assert runs.under_way() == {("demo", "continual-merge", "running"): 1}
    assert runs.ended() == ()
    for number in range(100, 350):
        prefect.ends(number, "COMPLETED")
    assert len(runs.ended()) == 250


@pytest.mark.parametrize(("status", "said"), [(500, "answered 500"), (200, "is not Prefect")])
def test_a_prefect_that_fails_is_named(settings: Settings, status: int, said: str) -> None:
    prefect = Prefect()
    prefect.status, prefect.flows = status, [{"nothing": "useful"}]
    prefect.ends(10, "FAILED")
    with pytest.raises(Unavailable, match=said):
        Runs(settings, httpx.MockTransport(prefect)).ended()
