"""The configuration files that the commands of the parts name."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import SecretStr

from infra.settings import CODE, Settings
from infra.stack.files import private_folder, write_private
from infra.stack.state import StackState

ADMIN = "admin"
"""Name of MLflow's administrator."""
POLICIES = CODE / "infra" / "policies"
"""What each part may do in S3, as AWS takes it."""


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
    ours = _keys(state.s3_access_key, state.s3_secret_key)
    receivers = _keys(state.s3_receiver_key, state.s3_receiver_secret)
    policy = (POLICIES / "receiver.json").read_text()
    for placeholder in ("BUCKET", "FAMILY"):  # Families of the embedded stack may come any time.
        policy = policy.replace(placeholder, "*")
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return {
        "identities": [
            {"name": "supermerge", "credentials": [ours], "actions": actions},
            {"name": "receiver", "credentials": [receivers], "policyNames": ["receiver"]},
        ],
        "policies": [{"name": "receiver", "content": policy}],
    }


def _keys(access: str, secret: SecretStr) -> dict[str, str]:
    return {"accessKey": access, "secretKey": secret.get_secret_value()}
