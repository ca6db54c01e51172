"""The configuration files that the commands of the parts name."""

from __future__ import annotations

import json
from pathlib import Path

from infra.settings import Settings
from infra.stack.files import private_folder, write_private
from infra.stack.state import StackState

ADMIN = "admin"
"""Name of MLflow's administrator."""


def identities_file(settings: Settings) -> Path:
    """Who may do what in S3."""
    return settings.state_dir / "s3-identities.json"


def basic_auth_file(settings: Settings) -> Path:
    """MLflow's basic authentication; read only where it is on."""
    return settings.state_dir / "mlflow" / "basic_auth.ini"


def write_part_files(state: StackState, settings: Settings) -> None:
    """Writes them, and makes the folders that the parts keep their data in."""
    private_folder(settings.state_dir / "s3")
    write_private(identities_file(settings), json.dumps(_identities(state)))
    home = private_folder(settings.state_dir / "mlflow")
    write_private(
        basic_auth_file(settings),
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{home / 'users.db'}\n"
        f"admin_username = {ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
    )


def _identities(state: StackState) -> dict[str, object]:
    keys = {
        "accessKey": state.s3_access_key,
        "secretKey": state.s3_secret_key.get_secret_value(),
    }
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return {"identities": [{"name": "supermerge", "credentials": [keys], "actions": actions}]}
