"""The settings by which clients reach the embedded stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra.settings import Settings, is_given
from infra.stack.part_files import ADMIN
from infra.stack.state import HOST, StackState


def embedded_settings(state: StackState, state_dir: Path) -> Settings:
    """How clients reach the stack. What a SUPERMERGE_* variable names stays as it says."""
    mlflow = {"mlflow_uri": f"http://{HOST}:{state.mlflow_port}"}
    if state.mlflow_auth:
        password = state.mlflow_admin_password.get_secret_value()
        mlflow |= {"mlflow_username": ADMIN, "mlflow_password": password}
    ours: dict[str, dict[str, Any]] = {
        "s3_endpoint": {
            "s3_endpoint": f"http://{HOST}:{state.s3_port}",
            "s3_access_key": state.s3_access_key,
            "s3_secret_key": state.s3_secret_key,
            "s3_region": "us-east-1",
        },
        "mlflow_uri": mlflow,
        "prefect_api": {"prefect_api": f"http://{HOST}:{state.prefect_port}/api"},
        "receiver_url": {"receiver_url": f"http://{HOST}:{state.receiver_port}"},
        "webhook_secret": {"webhook_secret": state.webhook_secret},
    }
    values = {
        name: value
        for decisive, fields in ours.items()
        if not is_given(decisive)
        for name, value in fields.items()
    }
    settings = Settings.of({**values, "state_dir": state_dir}, "environment")
    if is_given("mlflow_uri"):
        return settings
    root = f"s3://{settings.bucket}/_mlflow"  # No family can have this name.
    return settings.model_copy(update={"mlflow_artifact_root": root})
