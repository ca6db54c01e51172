"""Settings come from the environment or the stack, are whole or refused, and keep their secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from infra.settings import Settings
from infra.state_file import state_file
from merging.errors import InvalidInput

ADDRESSES = {"mlflow_uri": "http://127.0.0.1:5000", "prefect_api": "http://127.0.0.1:4200/api"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SUPERMERGE_"):
            monkeypatch.delenv(name)


def write_state(folder: Path, **settings: str) -> None:
    state_file(folder).write_text(json.dumps({"settings": settings}))


def test_the_state_file_of_the_stack_is_enough(tmp_path: Path) -> None:
    write_state(tmp_path, **ADDRESSES, s3_access_key="key", s3_secret_key="hush")
    settings = Settings.load(tmp_path)
    assert settings.mlflow_uri == ADDRESSES["mlflow_uri"]
    assert settings.s3_secret_key == SecretStr("hush")
    assert settings.cache_dir == tmp_path / "cache"


def test_the_environment_wins_over_the_state_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(tmp_path, **ADDRESSES)
    monkeypatch.setenv("SUPERMERGE_MLFLOW_URI", "https://mlflow.example.org")
    settings = Settings.load(tmp_path)
    assert settings.mlflow_uri == "https://mlflow.example.org"
    assert settings.prefect_api == ADDRESSES["prefect_api"]


def test_with_neither_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        Settings.load(tmp_path)
    message = str(caught.value)
    assert "supermerge up" in message
    assert "SUPERMERGE_MLFLOW_URI" in message
    assert "SUPERMERGE_PREFECT_API" in message


def test_a_misspelt_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path, **ADDRESSES)
    monkeypatch.setenv("SUPERMERGE_MLFLOW_URL", "https://mlflow.example.org")
    with pytest.raises(InvalidInput, match="SUPERMERGE_MLFLOW_URL"):
        Settings.load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mlflow_uri": "file:///tmp/mlruns"},
        {"mlflow_uri": "https://user:password@mlflow.example.org"},
        {"prefect_api": "http://127.0.0.1:4200"},
        {"s3_access_key": "key"},
        {"mlflow_username": "admin"},
        {"bucket": "Upper_Case"},
        {"unknown": "field"},
    ],
)
def test_a_wrong_value_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings(**{**ADDRESSES, **wrong})


def test_secrets_show_neither_in_repr_nor_in_errors_nor_in_json(tmp_path: Path) -> None:
    secrets = dict.fromkeys(("s3_access_key", "s3_secret_key", "webhook_secret"), "hush-hush")
    settings = Settings(**ADDRESSES, **secrets)
    assert "hush-hush" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    write_state(tmp_path, **ADDRESSES, s3_access_key="hush-hush")
    with pytest.raises(InvalidInput) as caught:
        Settings.load(tmp_path)
    assert "hush-hush" not in str(caught.value)
    assert "hush-hush" in settings.model_dump_json(context={"reveal": True})


def test_the_environment_of_clients_allows_no_pickle_and_no_telemetry() -> None:
    settings = Settings(
        **ADDRESSES, s3_endpoint="http://127.0.0.1:9000", s3_access_key="k", s3_secret_key="s"
    )
    environment = settings.environment()
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["PREFECT_API_URL"] == ADDRESSES["prefect_api"]
    assert environment["AWS_SECRET_ACCESS_KEY"] == "s"
    assert "MLFLOW_TRACKING_USERNAME" not in environment


def test_another_process_gets_the_same_settings_by_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**ADDRESSES, state_dir=tmp_path, webhook_secret="hush")
    for name, value in settings.variables().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings
