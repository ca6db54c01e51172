"""Whatever a library raises over a server or a disk, people read a sentence with the right advice."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import boto3
import httpx
import pytest
from botocore.config import Config

from infra import faults
from infra.errors import Barred, Unavailable, Unreadable
from infra.faults import explained, in_words
from infra.servers import mlflow_server, prefect_server
from infra.state_file import state_file
from merging.errors import InvalidInput

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that was started with ports from 20000 on, and clients that know their servers."""
    state_file(tmp_path).write_text(json.dumps({"stack": {"first_port": 20000}}))
    monkeypatch.setenv("SUPERMERGE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    monkeypatch.setenv("PREFECT_API_URL", f"{NOBODY}/prefect/api")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", NOBODY)


def over_httpx() -> None:
    httpx.get(f"{NOBODY}/prefect/api/health")


def over_requests() -> None:
    import requests

    requests.get(f"{NOBODY}/api/2.0/mlflow/runs/get", timeout=5)


def over_mlflow() -> None:
    from mlflow.exceptions import MlflowException

    try:
        over_requests()
    except OSError as error:  # as mlflow.utils.rest_utils has it
        raise MlflowException(f"API request to {NOBODY}/api failed with exception {error}")  # noqa: B904


def over_boto() -> None:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    boto3.client("s3", **keys, config=Config(retries={"total_max_attempts": 1})).list_buckets()


def hidden_by_prefect() -> None:
    try:
        over_httpx()
    except httpx.ConnectError as error:
        raise RuntimeError("Failed to reach API") from error


@pytest.mark.parametrize(
    ("ask", "who", "variable"),
    [
        (over_httpx, f"Prefect at {NOBODY}/prefect/api", "SUPERMERGE_PREFECT_API"),
        (hidden_by_prefect, f"Prefect at {NOBODY}/prefect/api", "SUPERMERGE_PREFECT_API"),
        (over_requests, f"MLflow at {NOBODY}", "SUPERMERGE_MLFLOW_URI"),
        (over_mlflow, f"MLflow at {NOBODY}", "SUPERMERGE_MLFLOW_URI"),
        (over_boto, f"The object store at {NOBODY}", "SUPERMERGE_S3_ENDPOINT"),
    ],
)
def test_a_server_that_does_not_answer_is_named_with_the_variable_that_says_where(
    ask, who, variable
):
    with pytest.raises(Unavailable, match=f"^{who} does not answer") as told, in_words():
        ask()
    assert (
        told.value.remedy
        == f"See that it runs and can be reached from here, or correct {variable}."
    )


def test_an_answer_that_prefects_client_does_not_understand_is_not_prefects():
    error = RuntimeError(f"Failed to reach API at {NOBODY}")
    error.__cause__ = json.JSONDecodeError("Expecting value", "<html>", 0)
    told = explained(error)
    assert isinstance(told, Unavailable)
    assert told.reason.startswith(f"What answers at {NOBODY}/prefect/api is not Prefect")


def test_what_the_project_said_of_a_fault_is_kept():
    said = mlflow_server(NOBODY).strange("no")
    said.__cause__ = httpx.ConnectError("refused")
    assert explained(said) is said


def test_only_the_embedded_server_is_started_with_up():
    for port in (20000, 20015):
        assert "supermerge up" in mlflow_server(f"http://127.0.0.1:{port}").away("no").remedy
    for address in ("http://127.0.0.1:20016", "https://mlflow.example.org", "http://127.0.0.1"):
        assert "supermerge up" not in mlflow_server(address).away("no").remedy


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, Barred, "does not let us in .* Set SUPERMERGE_PREFECT_AUTH to what it knows"),
        (403, Unreadable, "answered 403 .* Give that right"),
        (404, Unreadable, "answered 404"),
        (302, Unavailable, "What answers at https://prefect.example.org/api is not Prefect"),
        (429, Unavailable, "answered 429 .* Try again"),
        (503, Unavailable, "answered 503 .* Try again"),
    ],
)
def test_what_a_server_answers_is_told_by_its_status(status, kind, words):
    told = prefect_server("https://prefect.example.org/api").answered(status, "/flows", "no")
    assert type(told) is kind
    with pytest.raises(kind, match=words):
        raise told


def test_a_wrong_password_of_the_embedded_stack_is_one_in_the_shell():
    told = prefect_server("http://127.0.0.1:20001/api").answered(401, "/flows", "no")
    assert told.remedy.startswith("It is the embedded stack's: unset SUPERMERGE_PREFECT_AUTH")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EACCES, "Check who may read and write there"),
        (errno.EROFS, "where one may write"),
        (errno.ENOTDIR, "Check the path"),
    ],
)
def test_what_a_disk_does_is_said_with_its_place(number, advice):
    told = explained(OSError(number, os.strerror(number), "/data/cache"))
    assert isinstance(told, Unavailable)
    assert told.reason == f"/data/cache: {os.strerror(number)}."
    assert advice in told.remedy


def test_a_full_disk_without_a_name_is_looked_for(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr(faults.shutil, "disk_usage", lambda _: usage)
    told = explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert isinstance(told, Unavailable)
    assert str(tmp_path) in told.reason


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), OSError("a broken image")])
def test_what_neither_a_server_nor_a_disk_did_stays_as_it_is(error):
    assert explained(error) is None
    with pytest.raises(type(error)), in_words():
        raise error


def test_the_projects_own_errors_stay_as_they_are():
    error = InvalidInput(where="a", expected="b", found="c", remedy="d")
    assert explained(error) is error
