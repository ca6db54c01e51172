"""The doctor finds what is wrong with a stack, says what to do, and finds nothing on one that is well."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.doctor import Finding, examine, machine
from infra.settings import Settings
from infra.stack import stack as stack_module
from infra.stack.stack import start_stack
from infra.stack.supervise import Supervisor
from merging.errors import MergeQueueError
from tests.infra.doctor.answering import answering
from tests.infra.storage.fake_s3 import running

NOBODY = "http://127.0.0.1:9"
HOOKS = "/api/2.0/mlflow/webhooks"
TRY, WORKERS = f"{HOOKS}/1/test", "/api/work_pools/supermerge/workers/filter"
HOOK = {"name": "supermerge", "webhook_id": "1", "url": "https://receiver.example.org/mlflow"}
MLFLOW = {
    "/api/2.0/mlflow/registered-models/search": (200, {}),
    "/version": (200, version("mlflow")),
    HOOKS: (200, {"webhooks": [HOOK]}),
    TRY: (200, {"result": {"success": True, "response_status": 204}}),
}
PREFECT = {
    "/api/work_pools/filter": (200, [{"name": "supermerge"}]),
    "/api/admin/version": (200, version("prefect")),
    WORKERS: (200, [{"status": "ONLINE"}]),
}


@pytest.fixture(autouse=True)
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that knows nothing but an address of the receiver."""
    clean = {
        n: v for n, v in os.environ.items() if not n.startswith(("SUPERMERGE_", "AWS_", "MLFLOW"))
    }
    monkeypatch.setattr(os, "environ", clean | {"SUPERMERGE_STATE_DIR": str(tmp_path)})
    monkeypatch.setenv("SUPERMERGE_RECEIVER_URL", NOBODY)
    monkeypatch.setattr(
        machine, "check_packages", lambda: None
    )  # It looks at all that is installed.


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Callable[..., list[Finding]]]:
    """What is found on a stack of small servers, each of which may be another than it should be."""
    with ExitStack() as servers:

        def look(
            mlflow=MLFLOW, prefect=PREFECT, otherwise: int = 404, **ways: object
        ) -> list[Finding]:
            fake = servers.enter_context(running(**ways))
            prefect_at = servers.enter_context(answering(prefect, otherwise))
            settings = Settings(
                **fake.settings,
                state_dir=tmp_path,
                mlflow_uri=servers.enter_context(answering(mlflow, otherwise)),
                prefect_api=f"{prefect_at}/api",
                receiver_url=NOBODY,
            )
            findings = list(examine(settings, []))
            assert all(path.endswith("conditional-write") for path in fake.objects)
            return findings

        yield look


def faults(findings: list[Finding]) -> list[str]:
    return [f"{f.check}: {f.found} {f.remedy}" for f in findings if f.verdict == "fault"]


def test_nothing_is_wrong_with_servers_that_do_what_they_should(found):
    findings = found()
    assert faults(findings) == []
    checks = {finding.check for finding in findings}
    assert checks >= {"packages", "memory", "conditional writes", "object store", "checksums"}
    assert checks >= {"disk of the cache", "MLflow", "webhook", "Prefect", "worker"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"ignores_condition": True, "mlflow": {}, "prefect": {}},
            [
                "object store: .*ignores the header If-None-Match",
                "MLflow: What answers at .* is not MLflow",
                "Prefect: What answers at .* is not Prefect",
            ],
        ),
        (
            {"refuses_with": "InvalidAccessKeyId", "mlflow": {}, "prefect": {}, "otherwise": 401},
            [
                "object store: .*Set SUPERMERGE_S3_ACCESS_KEY",
                "MLflow: .*Set SUPERMERGE_MLFLOW_USERNAME",
                "Prefect: .*Set SUPERMERGE_PREFECT_AUTH",
            ],
        ),
        (
            {
                "refuses_checksums": True,
                "mlflow": {**MLFLOW, HOOKS: (200, {})},
                "prefect": {**PREFECT, WORKERS: (200, [])},
            },
            [
                "object store: .*Unsupported header",
                "webhook: MLflow has no webhook",
                "worker: None is there",
            ],
        ),
        (
            {
                "clock_is_off": 3600.0,
                "mlflow": {**MLFLOW, TRY: (200, {"result": {"response_status": 401}})},
                "prefect": {**PREFECT, WORKERS: (404, {})},
            },
            [
                "object store: clock: .*3,[56].. seconds.*NTP",
                "webhook: .*did not arrive.*different secrets",
                "worker: There is no work pool",
            ],
        ),
        (
            {"refuses_with": "AccessDenied", "mlflow": {}, "prefect": {}, "otherwise": 503},
            [
                "object store: .*the key in use may do that there",
                "MLflow: .*answered 503.*Try again",
                "Prefect: .*answered 503.*Try again",
            ],
        ),
    ],
)
def test_all_that_is_wrong_is_found_with_what_to_do_and_nothing_else(found, wrong, words):
    said = faults(found(**wrong))
    assert len(said) == len(words)
    for one, expected in zip(said, words, strict=True):
        assert re.search(expected, one), one


def test_versions_that_differ_are_worth_knowing(found):
    findings = found(mlflow=MLFLOW | {"/version": (200, "2.1.0")})
    assert ("MLflow", "worth knowing") in [(f.check, f.verdict) for f in findings]


def test_what_a_shell_says_of_other_servers_is_named_before_it_is_taken_out(found, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    findings = found()
    assert faults(findings) == []
    said = " ".join(f.found for f in findings if f.check == "shell")
    assert "AWS_PROFILE would open another S3" in said
    assert "HTTP_PROXY send requests through a proxy" in said


def test_a_full_disk_an_open_file_of_secrets_and_another_package_are_found(
    found, tmp_path, monkeypatch
):
    (tmp_path / "stack.json").write_text("{}")
    (tmp_path / "stack.json").chmod(0o644)
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(
        machine, "version", lambda name: "2.1" if name == "sqlalchemy" else version(name)
    )
    said = "\n".join(faults(found()))
    assert "disk of the cache: 0.0 GB free" in said
    assert "others than its owner may read it" in said
    assert "sqlalchemy 2.1 (wanted: <2.1,>=2)" in said
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o644, (
        "it mends nothing itself"
    )


@pytest.mark.e2e
def test_the_embedded_stack_is_well(stack: Settings, monkeypatch):
    monkeypatch.setenv("SUPERMERGE_STATE_DIR", str(stack.state_dir))
    monkeypatch.delenv("SUPERMERGE_RECEIVER_URL")
    assert faults(list(examine(stack, []))) == []


@pytest.mark.parametrize("prefect", [PREFECT, {}])
def test_the_command_ends_with_status_1_where_something_is_at_fault(prefect, monkeypatch):
    with running() as fake, answering(MLFLOW) as mlflow, answering(prefect) as address:
        ours = fake.settings | {"mlflow_uri": mlflow, "prefect_api": f"{address}/api"}
        for name, value in ours.items():
            monkeypatch.setenv(f"SUPERMERGE_{name.upper()}", value)
        monkeypatch.setenv("SUPERMERGE_FAMILIES_DIR", os.environ["SUPERMERGE_STATE_DIR"])
        result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == (0 if prefect else 1), result.output
    assert ("fault" in result.output) == (not prefect)


def test_up_names_every_server_that_is_away_or_does_not_let_us_in(tmp_path, monkeypatch):
    monkeypatch.setattr(Supervisor, "ensure", lambda *_: False)
    monkeypatch.setattr(stack_module, "check_packages", lambda: None)
    monkeypatch.setenv("SUPERMERGE_S3_ENDPOINT", NOBODY)
    monkeypatch.setenv("SUPERMERGE_S3_ACCESS_KEY", "key")
    monkeypatch.setenv("SUPERMERGE_S3_SECRET_KEY", "secret")
    monkeypatch.delenv("SUPERMERGE_RECEIVER_URL")
    with answering({}, 401) as locked:
        monkeypatch.setenv("SUPERMERGE_MLFLOW_URI", locked)
        monkeypatch.setenv("SUPERMERGE_PREFECT_API", f"{locked}/api")
        with pytest.raises(MergeQueueError) as told:
            start_stack(tmp_path)
    said = str(told.value)
    assert f"The object store at {NOBODY} does not answer" in said
    assert f"MLflow at {locked} does not let us in" in said
    assert f"Prefect at {locked}/api does not let us in" in said
    assert "Failed: The object store" in (tmp_path / "logs" / "up.log").read_text()


@pytest.mark.parametrize("given", [True, False])
def test_a_receiver_address_that_is_given_is_used_though_it_is_the_stacks_own(
    given, tmp_path, monkeypatch
):
    monkeypatch.setattr(Supervisor, "ensure", lambda *_: False)
    for name in (
        "check_packages",
        "check_bucket",
        "check_prefect",
        "prepare_prefect",
        "set_run_command",
    ):
        monkeypatch.setattr(stack_module, name, lambda *_, **__: None)
    monkeypatch.setattr(stack_module, "deploy_families", lambda _: [])
    asked = []
    monkeypatch.setattr(stack_module, "register_webhook", asked.append)
    if given:
        monkeypatch.setenv("SUPERMERGE_RECEIVER_URL", "http://127.0.0.1:20002")
    else:
        monkeypatch.delenv("SUPERMERGE_RECEIVER_URL")
    told: list[str] = []
    with answering(MLFLOW) as mlflow:
        monkeypatch.setenv("SUPERMERGE_MLFLOW_URI", mlflow)
        start_stack(tmp_path, first_port=20000, report=told.append)
    assert bool(asked) == given
    assert any(words.startswith("No webhooks") for words in told) == (not given)
