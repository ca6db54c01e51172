"""Starts, finds and stops servers that outlive the command that started them.

A part is the leader of its own session; what it forks stays in that session. It is remembered by
process id and start time, so that a recycled process id is never mistaken for it, nor stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.errors import Unavailable
from infra.stack.files import private_folder, write_private
from infra.stack.state import is_free
from infra.state_file import state_file
from infra.warm.environment import without_secrets

# Seconds by which two readings of one process's start time may differ, when the clock is corrected.
SAME_START = 2.0
# Seconds that a part may be too busy to answer before it counts as hung.
PATIENCE = 30.0
LOG_LINES_SHOWN = 15
LOG_BYTES_KEPT = 10 * 1024**2

# Python reaps the children that end only while somebody holds their handles.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Part:
    """One server of the stack: how it starts and how one sees that it answers."""

    name: str
    title: str
    address: str
    command: tuple[str, ...]
    is_healthy: Callable[[], bool] = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    inherits: tuple[str, ...] = ()
    """Patterns of variables that it gets from who starts it, beside those that are no secret."""
    start_timeout: float = 300.0
    """Seconds to wait for an answer. They are many, because they only decide when to give up."""

    @property
    def port(self) -> int | None:
        """The port at the end of the address; None where it is a unix socket."""
        if self.address.startswith("unix:"):
            return None
        return int(self.address.rpartition(":")[2])

    @property
    def fingerprint(self) -> str:
        """Changes when the part would be started differently."""
        how = json.dumps([self.command, sorted(self.environment.items())])
        return hashlib.sha256(how.encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """A process that was started: enough to find it again, and only it."""

    pid: int
    started: float
    fingerprint: str

    def leads(self) -> bool:
        """Whether the process that was started itself still runs."""
        try:
            leader = psutil.Process(self.pid)
            return self._is_mine(leader) and leader.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def processes(self) -> list[psutil.Process]:
        """The living processes of this part; [] when they ended or the process id is another's."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if not self._is_mine(psutil.Process(self.pid)):
                return []
        # Without its leader a session lives on, and the system gives no new process its id.
        return [process for process in psutil.process_iter() if _in_session(process, self.pid)]

    def _is_mine(self, leader: psutil.Process) -> bool:
        started: float = leader.create_time()
        return abs(started - self.started) < SAME_START


@dataclass(frozen=True)
class PartStatus:
    """One part as it is now."""

    title: str
    address: str
    up: bool
    pid: int | None
    log: Path


class Supervisor:
    """Starts and stops parts whose records and logs lie in one state folder."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.records = state_dir / "processes"
        self.logs = state_dir / "logs"

    def log_of(self, name: str) -> Path:
        """The file that a part's output goes to."""
        return self.logs / f"{name}.log"

    def record_of(self, name: str) -> Record | None:
        """The process that was started for a part and not stopped; None where there is none."""
        path = self.records / f"{name}.json"
        return Record(**json.loads(path.read_text())) if path.exists() else None

    def recorded(self) -> list[str]:
        """The names of all parts that were started and not stopped."""
        return sorted(path.stem for path in self.records.glob("*.json"))

    def status(self, part: Part) -> PartStatus:
        """Whether the part is up."""
        record = self.record_of(part.name)
        pid = record.pid if record is not None and record.leads() else None
        up = pid is not None and part.is_healthy()
        return PartStatus(part.title, part.address, up, pid, self.log_of(part.name))

    def ensure(self, part: Part) -> bool:
        """Starts the part and waits until it answers, unless it is up; says whether it started it.

        A part that runs but was started differently, or does not answer any more, is replaced.

        Raises:
            Unavailable: The part ended or did not answer in time; carries the end of its log.
        """
        record = self.record_of(part.name)
        if (
            record is not None
            and record.fingerprint == part.fingerprint
            and _wait_until_healthy(part, record, PATIENCE)
        ):
            return False
        freed = time.monotonic() + (PATIENCE if self.stop(part.name) else 0)
        while part.port is not None and not is_free(part.port):
            if time.monotonic() < freed:  # On a busy machine a port outlives its process a little.
                time.sleep(0.1)
                continue
            raise Unavailable(
                f"{part.title} cannot have {part.address}: another program listens there.",
                "Stop that program, or run `supermerge down` and change `first_port` in "
                f"{state_file(self.state_dir)}.",
            )
        record = self._start(part)
        if not _wait_until_healthy(part, record, part.start_timeout):
            ended = not record.leads()
            self.stop(part.name)
            what = "it ended" if ended else f"no answer within {part.start_timeout:.0f} s"
            raise self._did_not_come_up(part, what)
        return True

    def stop(self, name: str, patience: float = 15.0) -> bool:
        """Ends every process of a part, politely first; says whether there was one.

        Args:
            name: The part.
            patience: Seconds between asking and forcing.
        """
        record = self.record_of(name)
        if record is None:
            return False
        processes = record.processes()
        # The leader goes first, because it ends its own children best.
        _end([process for process in processes if process.pid == record.pid], patience)
        _end(record.processes(), patience)
        (self.records / f"{name}.json").unlink()
        return bool(processes)

    def _start(self, part: Part) -> Record:
        log = self.log_of(part.name)
        private_folder(self.logs)
        private_folder(self.records)
        if log.exists() and log.stat().st_size > LOG_BYTES_KEPT:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            child = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A folder named `tasks` where the command is called must not be imported as ours.
                env={
                    **without_secrets(os.environ, part.inherits),
                    "PYTHONSAFEPATH": "1",
                    **part.environment,
                },
                start_new_session=True,
            )
        _children.append(child)
        record = Record(child.pid, psutil.Process(child.pid).create_time(), part.fingerprint)
        write_private(self.records / f"{part.name}.json", json.dumps(vars(record)))
        return record

    def _did_not_come_up(self, part: Part, what: str) -> Unavailable:
        log = self.log_of(part.name)
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        shown = "\n".join(f"  | {line}" for line in lines)
        return Unavailable(
            f"{part.title} at {part.address} did not come up: {what}. The end of {log}:\n{shown}",
            "Remove the cause and run `supermerge up` again; what is up already stays up.",
        )


def _wait_until_healthy(part: Part, record: Record, patience: float) -> bool:
    """Whether the process answers within so many seconds; False as soon as it has ended."""
    deadline = time.monotonic() + patience
    while record.leads():
        if part.is_healthy():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return False


def _in_session(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        return False


def has_ended(process: psutil.Process) -> bool:
    """Whether a process runs no more, even where the one that started it has not noticed yet."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _end(processes: list[psutil.Process], patience: float) -> None:
    """Asks them to end, and forces those that have not after so many seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)  # Psutil compares the start time first.
        deadline = time.monotonic() + patience
        while (processes := [p for p in processes if not has_ended(p)]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.05)
    for child in _children:
        child.poll()  # So the end of what this process started is noted.
