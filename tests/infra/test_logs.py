"""Structured logs: every line is JSON and says which run, family and expert it is about."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.logs import FAMILY, JsonFormatter, about, one_by_one
from infra.settings import Settings


@dataclass(frozen=True)
class Expert:
    ref: str


def line(message: str = "said", **more: object) -> dict[str, str]:
    record = logging.LogRecord("merging", logging.WARNING, "", 0, message, (), None)
    vars(record).update(more)
    return json.loads(JsonFormatter().format(record))


def test_a_line_says_what_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "run-7")
    family = FAMILY.set("demo")
    with about(Expert("demo-food/1"), Expert("demo-sport/2")):
        told = line("half\nand half")
    FAMILY.reset(family)
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "WARNING",
        "logger": "merging",
        "message": "half\nand half",
        "run": "run-7",
        "family": "demo",
        "expert": "demo-food/1 demo-sport/2",
    }


def test_what_is_not_known_is_left_out() -> None:
    known = Context().run(line)  # Another test may have opened a queue.
    assert set(known) == {"time", "level", "logger", "message"}


def test_in_a_loop_each_expert_has_its_lines() -> None:
    seen = [line()["expert"] for _ in one_by_one([Expert("a/1"), Expert("b/2")])]
    assert seen == ["a/1", "b/2"]
    assert "expert" not in line()


def test_what_prefect_knows_of_a_run_has_its_own_names() -> None:
    told = line(flow_run_id="r", flow_name="audit", task_run_name="learn-0a1", flow_run_name="x")
    assert {told["run"], told["flow"], told["step"]} == {"r", "audit", "learn-0a1"}
    assert "flow_run_name" not in told


def test_prefect_writes_json_where_the_setting_says_so(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    settings = Settings(
        mlflow_uri="http://127.0.0.1:9",
        prefect_api="http://127.0.0.1:9/api",
        log_format="json",
        state_dir=tmp_path,
    )
    code = "import logging, prefect.main; logging.getLogger('merging').warning('loss \\n is %s', 3)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert said.count("\n") == 1, said
    told = json.loads(said)
    assert (told["message"], told["logger"]) == ("loss \n is 3", "merging")
