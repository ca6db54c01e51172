"""Brings the embedded stack up and down.

What does not depend on each other starts at the same time. Prefect is the slowest, and deployments
and worker come after it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from infra.errors import Unavailable
from infra.events.webhooks import register_webhook
from infra.faults import explained
from infra.settings import Settings, default_state_dir
from infra.stack.bucket import check_bucket
from infra.stack.deployments import deploy_families
from infra.stack.embedded import embedded_settings
from infra.stack.files import private_folder
from infra.stack.orchestration import check_prefect, prepare_prefect, set_run_command
from infra.stack.packages import check_packages
from infra.stack.part_files import write_part_files
from infra.stack.parts import flow_run_command, stack_parts
from infra.stack.registry import check_registry, why_no_webhook
from infra.stack.state import StackState, choose_ports, read_state, write_state
from infra.stack.supervise import PartStatus, Supervisor
from merging.errors import MergeQueueError

Report = Callable[[str], None]


def start_stack(
    state_dir: Path | None = None,
    *,
    first_port: int | None = None,
    mlflow_auth: bool | None = None,
    report: Report = lambda _step: None,
) -> Settings:
    """Starts what is not up, then tells the servers of flows, families and webhooks.

    Running it again leaves alone what is up and well, and repairs what is not.

    Args:
        state_dir: Holds all that must survive a restart; SUPERMERGE_STATE_DIR, or `.supermerge`.
        first_port: Where to look for free ports the first time; they are kept afterwards.
        mlflow_auth: Whether MLflow asks for a name and a password; None keeps what was chosen.
        report: Is told each step in words.

    Raises:
        Unavailable: A part did not come up, or a server elsewhere does not answer or does not let us
            in; names all of them. Those that came up stay up.
        InvalidInput: Another project's packages are in the way of this one's.
    """
    check_packages()
    state_dir = private_folder((state_dir or default_state_dir()).absolute())
    supervisor = Supervisor(state_dir)
    log = private_folder(state_dir / "logs") / "up.log"

    def tell(words: str) -> None:
        _write(log, words)
        report(words)

    with _one_at_a_time(state_dir):
        state = _state(state_dir, first_port, mlflow_auth)
        settings = embedded_settings(state, state_dir)
        write_state(state, settings)
        write_part_files(state, settings)
        mine = stack_parts(state, settings)

        def ensure(name: str) -> None:
            if name in mine:  # Otherwise it runs elsewhere.
                started = supervisor.ensure(mine[name])
                tell(f"{mine[name].title} {'started' if started else 'is up'}")

        def storage() -> None:
            ensure("s3")
            check_bucket(settings, create="s3" in mine)

        def registry() -> None:
            ensure("mlflow")
            check_registry(settings)
            if unreached := why_no_webhook(settings, "mlflow" in mine):
                tell(unreached)
            else:
                register_webhook(settings)
                tell(f"MLflow sends its webhooks to {settings.receiver_url}")

        def deploy() -> None:
            for family, done in deploy_families(settings):
                tell(f"Family {family}: {done}")

        def orchestration() -> None:
            ensure("prefect")
            check_prefect(settings)
            prepare_prefect(settings)
            if "prefect" in mine and "warm" in mine:
                set_run_command(settings, flow_run_command(settings))
            _at_once(*(partial(ensure, name) for name in ("worker", "decider", "warm")), deploy)

        try:
            _at_once(storage, registry, orchestration, lambda: ensure("receiver"))
        except MergeQueueError as error:
            _write(log, f"Failed: {error}")
            raise
    return settings


def stop_stack(state_dir: Path | None = None, *, report: Report = lambda _step: None) -> None:
    """Stops every part of the stack; data, ports and secrets stay for the next start."""
    state_dir = (state_dir or default_state_dir()).absolute()
    if not state_dir.is_dir():
        return
    supervisor = Supervisor(state_dir)

    def stop(name: str) -> None:
        if supervisor.stop(name):
            report(f"{name} stopped")

    with _one_at_a_time(state_dir):
        # The workers go first: they report the end of their runs while Prefect still answers.
        _at_once(partial(stop, "worker"), partial(stop, "decider"))
        _at_once(*(partial(stop, name) for name in supervisor.recorded()))
        _remove_sockets(read_state(state_dir))


def stack_status(state_dir: Path | None = None) -> list[PartStatus]:
    """Every part of the stack and whether it answers; [] where it was never started."""
    state_dir = (state_dir or default_state_dir()).absolute()
    state = read_state(state_dir)
    if state is None:
        return []
    supervisor = Supervisor(state_dir)
    wanted = stack_parts(state, embedded_settings(state, state_dir))
    return [supervisor.status(part) for part in wanted.values()]


def _write(log: Path, words: str) -> None:
    with log.open("a") as file:
        file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {words}\n")


def _state(state_dir: Path, first_port: int | None, mlflow_auth: bool | None) -> StackState:
    state = read_state(state_dir) or StackState(first_port=choose_ports(state_dir, first_port))
    return state if mlflow_auth is None else state.model_copy(update={"mlflow_auth": mlflow_auth})


def _remove_sockets(state: StackState | None) -> None:
    """SeaweedFS leaves some of its sockets behind, in /tmp whatever it is told."""
    for port in (state.s3_port, *state.s3_inner_ports) if state else ():
        for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            socket.unlink(missing_ok=True)


def _at_once(*steps: Callable[[], None]) -> None:
    """Runs the steps in threads, to their end; then raises what went wrong, all of it."""
    with ThreadPoolExecutor(max(1, len(steps))) as pool:
        errors = [future.exception() for future in [pool.submit(step) for step in steps]]
    failed = [error for error in errors if error is not None]
    told = [explained(error) or error for error in failed]
    for error in told:
        if len(told) == 1 or not isinstance(error, MergeQueueError):
            raise error
    if told:
        raise Unavailable("\n\n".join(map(str, told)), "What came up stays up.")


@contextmanager
def _one_at_a_time(state_dir: Path) -> Iterator[None]:
    """Makes a second `up` or `down` of the same stack wait for the first."""
    with (state_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
