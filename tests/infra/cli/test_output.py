"""No command shows a traceback, whatever a server, a disk or a person does; nor for a defect."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from infra.cli import app
from infra.cli.output import LINE, FriendlyGroup, Sentences

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _servers_that_are_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("SUPERMERGE_", "AWS_"))}
    ours = {
        "SUPERMERGE_STATE_DIR": str(tmp_path),
        "SUPERMERGE_S3_ENDPOINT": NOBODY,
        "SUPERMERGE_S3_ACCESS_KEY": "key",
        "SUPERMERGE_S3_SECRET_KEY": "secret",
        "SUPERMERGE_MLFLOW_URI": NOBODY,
        "SUPERMERGE_PREFECT_API": f"{NOBODY}/api",
    }
    monkeypatch.setattr(os, "environ", kept | ours)


@pytest.mark.parametrize(
    ("command", "server"),
    [
        ("history demo", "The object store"),
        ("explain demo-a/1", "MLflow"),
        ("approve demo 1", "MLflow"),
        ("deploy demo", "Prefect"),
    ],
)
def test_a_server_that_is_away_is_one_sentence(command, server):
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert said.startswith(f"{server} at {NOBODY}")
    assert said.count("does not answer") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("state", ["no JSON", "\udcff".encode(errors="surrogateescape"), None])
def test_a_state_file_that_cannot_be_read_is_one_sentence(state, tmp_path, monkeypatch):
    monkeypatch.delenv("SUPERMERGE_MLFLOW_URI")
    file = tmp_path / "stack.json"
    if state is None:
        file.mkdir()
    else:
        file.write_bytes(state if isinstance(state, bytes) else state.encode())
    result = CliRunner().invoke(app, ["history", "demo"])
    assert result.exit_code == 1
    assert str(file) in result.output.replace("\n", "")
    assert "should not" not in result.output


def failing(error: BaseException) -> typer.Typer:
    made = typer.Typer(cls=FriendlyGroup)

    @made.callback()
    def configure() -> None: ...

    @made.command()
    def fail() -> None:
        raise error

    return made


def test_the_traceback_of_a_defect_goes_into_a_file_that_is_named(tmp_path):
    result = CliRunner().invoke(failing(KeyError("tensor")), ["fail"])
    assert result.exit_code == 1
    file = tmp_path / "logs" / "supermerge.log"
    assert "should not: KeyError: 'tensor'" in result.output
    assert file.name in result.output.replace("\n", "")
    assert "Traceback" not in result.output
    assert "Traceback" in file.read_text()


def test_what_people_stop_or_misspell_stays_what_it_is():
    assert CliRunner().invoke(failing(typer.Exit(3)), ["fail"]).exit_code == 3
    assert CliRunner().invoke(failing(KeyError()), ["fial"]).exit_code == 2


def test_flows_log_sentences_and_other_handlers_get_the_traceback():
    try:
        raise ValueError("no")
    except ValueError as error:
        record = logging.LogRecord(
            "flow", logging.ERROR, __file__, 1, "it failed", (), (type(error), error, None)
        )
    assert Sentences(LINE).format(record).endswith("| it failed")
    assert "ValueError: no" in logging.Formatter(LINE).format(record)
