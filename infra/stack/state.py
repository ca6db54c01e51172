"""What the embedded stack decides once and then keeps: its ports and its generated secrets."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from infra.errors import Unavailable
from infra.settings import PROJECT, Settings
from infra.stack.files import private_folder, write_private
from infra.state_file import PORTS, read_state_file, state_file

HOST = "127.0.0.1"
# All ports are below the range that Linux and macOS use for outgoing connections.
LOWEST_PORT, HIGHEST_PORT = 18300, 28300
BLOCK = PORTS


def _secret() -> SecretStr:
    return SecretStr(secrets.token_urlsafe(30))


def _fernet_key() -> SecretStr:
    return SecretStr(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())


class StackState(BaseModel):
    """Kept in the state file, beside the settings that follow from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_port: int
    mlflow_auth: bool = False
    s3_access_key: str = Field(default_factory=lambda: secrets.token_hex(10))
    s3_secret_key: SecretStr = Field(default_factory=_secret)
    s3_receiver_key: str = Field(default_factory=lambda: secrets.token_hex(10))
    """Opens what the receiver may read, since others than we can send it something."""
    s3_receiver_secret: SecretStr = Field(default_factory=_secret)
    webhook_secret: SecretStr = Field(default_factory=_secret)
    webhook_encryption_key: SecretStr = Field(default_factory=_fernet_key)
    """MLflow encrypts webhook secrets with it; with another one every delivery stops silently."""
    mlflow_admin_password: SecretStr = Field(default_factory=_secret)
    mlflow_session_key: SecretStr = Field(default_factory=_secret)

    @property
    def mlflow_port(self) -> int:
        """Port of MLflow's server, the first of the block."""
        return self.first_port

    @property
    def prefect_port(self) -> int:
        """Port of Prefect's server."""
        return self.first_port + 1

    @property
    def receiver_port(self) -> int:
        """Port on which MLflow's webhooks arrive."""
        return self.first_port + 2

    @property
    def s3_port(self) -> int:
        """Port of the S3 interface."""
        return self.first_port + 3

    @property
    def worker_port(self) -> int:
        """Port on which the worker says whether it is well."""
        return self.first_port + 4

    @property
    def s3_inner_ports(self) -> range:
        """Ports that SeaweedFS talks to itself on."""
        return range(self.first_port + 5, self.first_port + BLOCK - 1)

    @property
    def decider_port(self) -> int:
        """Port on which the worker for decisions says whether it is well."""
        return self.first_port + BLOCK - 1


def read_state(state_dir: Path) -> StackState | None:
    """The state of a stack that was started here before, or None."""
    kept = read_state_file(state_dir).get("stack")
    return StackState(**kept) if kept else None


def write_state(state: StackState, settings: Settings) -> None:
    """Makes `Settings.load()` find the stack."""
    private_folder(settings.state_dir)
    text = json.dumps(
        {
            "stack": {name: _clear(value) for name, value in state},
            "settings": settings.model_dump(
                mode="json", exclude={"state_dir"}, exclude_none=True, context={"reveal": True}
            ),
        },
        indent=2,
    )
    write_private(state_file(settings.state_dir), text + "\n")


def choose_ports(state_dir: Path, first: int | None = None) -> int:
    """The first port of a free block.

    Args:
        state_dir: Whose stack it is. All but the project's own one are spread over the range, so
            that two that start at once do not take the same ports.
        first: Where to look first; the search goes on upwards from there.
    """
    span = (HIGHEST_PORT - LOWEST_PORT) // BLOCK
    digest = hashlib.sha256(str(state_dir.absolute()).encode()).digest()
    spread = 0 if state_dir == PROJECT / ".supermerge" else int.from_bytes(digest[:4]) % span
    start = first or LOWEST_PORT + spread * BLOCK
    for step in range(span):
        block = LOWEST_PORT + (start - LOWEST_PORT + step * BLOCK) % (HIGHEST_PORT - LOWEST_PORT)
        if all(is_free(port) for port in range(block, block + BLOCK)):
            return block
    raise Unavailable(
        f"No {BLOCK} free ports in a row between {LOWEST_PORT} and {HIGHEST_PORT} on {HOST}.",
        "Stop other servers and try again.",
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def _clear(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
