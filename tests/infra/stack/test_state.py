"""Ports and secrets are chosen once, kept, and readable by their owner only."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from infra.settings import Settings
from infra.stack.embedded import embedded_settings
from infra.stack.part_files import write_part_files
from infra.stack.parts import stack_parts
from infra.stack.state import BLOCK, StackState, choose_ports, read_state, write_state
from infra.state_file import state_file


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SUPERMERGE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def state() -> StackState:
    return StackState(first_port=20000)


def test_what_was_written_is_what_is_read(tmp_path: Path, state: StackState) -> None:
    settings = embedded_settings(state, tmp_path)
    write_state(state, settings)
    assert read_state(tmp_path) == state
    assert Settings.load(tmp_path) == settings


def test_every_file_with_a_secret_is_readable_by_its_owner_only(
    tmp_path: Path, state: StackState
) -> None:
    settings = embedded_settings(state, tmp_path / "state")
    write_state(state, settings)
    write_part_files(state, settings)
    secrets = [state.s3_secret_key, state.webhook_secret, state.mlflow_admin_password]
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file() and any(s.get_secret_value() in path.read_text() for s in secrets):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(state_file(settings.state_dir).stat().st_mode) == 0o600


def test_secrets_show_neither_in_commands_nor_in_repr(tmp_path: Path) -> None:
    state = StackState(first_port=20000, mlflow_auth=True)
    settings = embedded_settings(state, tmp_path)
    shown = f"{state!r} {settings!r} {stack_parts(state, settings)!r}"
    for secret in (state.s3_secret_key, state.webhook_secret, state.mlflow_admin_password):
        assert secret.get_secret_value() not in shown


def test_each_part_gets_the_secrets_that_it_needs_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERMERGE_PREFECT_AUTH", "name:prefect-password")
    state = StackState(first_port=20000, mlflow_auth=True)
    secrets = {
        "s3": state.s3_secret_key.get_secret_value(),
        "s3, logs only": state.s3_receiver_secret.get_secret_value(),
        "webhook": state.webhook_secret.get_secret_value(),
        "encryption": state.webhook_encryption_key.get_secret_value(),
        "mlflow": state.mlflow_admin_password.get_secret_value(),
        "session": state.mlflow_session_key.get_secret_value(),
        "prefect": "prefect-password",
    }
    given = {
        name: {kind for kind, secret in secrets.items() if secret in str(part.environment)}
        for name, part in stack_parts(state, embedded_settings(state, tmp_path)).items()
    }
    assert given == {
        "s3": set(),
        "warm": set(),
        "prefect": {"prefect"},
        "mlflow": {"s3", "mlflow", "encryption", "session"},
        "worker": {"s3", "mlflow", "prefect"},
        "decider": {"s3", "mlflow", "prefect"},
        "receiver": {"s3, logs only", "mlflow", "prefect", "webhook"},
    }


def test_keys_of_the_shell_go_only_to_those_who_have_no_others_for_an_s3(
    tmp_path: Path, state: StackState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inheriting() -> set[str]:
        parts = stack_parts(state, embedded_settings(state, tmp_path))
        return {name for name, part in parts.items() if "AWS_*" in part.inherits}

    assert inheriting() == set()
    monkeypatch.setenv("SUPERMERGE_S3_ENDPOINT", "https://s3.eu-central-1.amazonaws.com")
    assert inheriting() == {"mlflow", "worker", "decider", "receiver"}


def test_every_part_listens_on_loopback_only(tmp_path: Path, state: StackState) -> None:
    for part in stack_parts(state, embedded_settings(state, tmp_path)).values():
        assert part.address.startswith(("http://127.0.0.1:", f"unix:{tmp_path}/"))
        assert "0.0.0.0" not in " ".join(part.command)


def test_ports_that_are_taken_are_passed_over(tmp_path: Path) -> None:
    first = choose_ports(tmp_path)
    with socket.create_server(("127.0.0.1", first + 3)):
        assert choose_ports(tmp_path, first) >= first + BLOCK


def test_a_server_that_is_elsewhere_is_not_started(
    tmp_path: Path, state: StackState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERMERGE_S3_ENDPOINT", "https://s3.eu-central-1.amazonaws.com")
    settings = embedded_settings(state, tmp_path)
    assert "s3" not in stack_parts(state, settings)
    assert settings.s3_access_key is None
    write_state(state, settings)
    assert "access_key" not in json.dumps(json.loads(state_file(tmp_path).read_text())["settings"])
