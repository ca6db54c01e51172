"""A part outlives its starter, is started once, and is the only thing that is ever stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from infra.errors import Unavailable
from infra.stack.state import choose_ports
from infra.stack.supervise import Part, Supervisor, has_ended

SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print("child", child.pid, flush=True)
address = ("127.0.0.1", int(sys.argv[1]))
http.server.HTTPServer(address, http.server.BaseHTTPRequestHandler).serve_forever()
"""


def make_part(port: int, code: str = SERVER, **changes: object) -> Part:
    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}", trust_env=False).status_code == 501
        except httpx.TransportError:
            return False

    return Part(
        name="toy",
        title="Toy server",
        address=f"http://127.0.0.1:{port}",
        command=(sys.executable, "-c", code, str(port)),
        is_healthy=answers,
        **changes,
    )


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.stop("toy")


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return make_part(choose_ports(tmp_path))


def pids(supervisor: Supervisor) -> set[int]:
    record = supervisor.record_of("toy")
    return {process.pid for process in record.processes()} if record else set()


def test_a_part_that_is_up_is_not_started_again(supervisor: Supervisor, part: Part) -> None:
    assert supervisor.ensure(part)
    before = pids(supervisor)
    assert not supervisor.ensure(part)
    assert pids(supervisor) == before


def test_a_part_is_in_a_session_of_its_own_and_known_to_the_next_command(
    supervisor: Supervisor, part: Part, tmp_path: Path
) -> None:
    supervisor.ensure(part)
    status = Supervisor(tmp_path).status(part)
    assert status.up
    assert status.pid is not None
    assert os.getsid(status.pid) == status.pid != os.getsid(0)


def test_stopping_ends_what_the_part_started_too(supervisor: Supervisor, part: Part) -> None:
    supervisor.ensure(part)
    processes = [psutil.Process(pid) for pid in pids(supervisor)]
    assert len(processes) == 2
    assert supervisor.stop("toy")
    assert all(map(has_ended, processes))
    assert not supervisor.stop("toy")


def test_a_part_whose_first_process_was_killed_is_replaced_with_all_it_left(
    supervisor: Supervisor, part: Part
) -> None:
    supervisor.ensure(part)
    record = supervisor.record_of("toy")
    assert record is not None
    leader = psutil.Process(record.pid)
    (child,) = leader.children()
    leader.send_signal(signal.SIGKILL)
    leader.wait()
    assert not has_ended(child)
    assert supervisor.ensure(part)
    assert has_ended(child)
    assert supervisor.status(part).up


def test_a_part_that_would_start_differently_now_is_restarted(
    supervisor: Supervisor, part: Part
) -> None:
    supervisor.ensure(part)
    before = pids(supervisor)
    assert supervisor.ensure(make_part(part.port, environment={"NEW": "1"}))
    assert not pids(supervisor) & before


def test_a_part_sees_nothing_of_the_shell_but_what_it_needs(
    supervisor: Supervisor, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hush")
    monkeypatch.setenv("AWS_PROFILE", "work")
    supervisor.ensure(make_part(part.port, environment={"OWN": "1"}, inherits=("AWS_PROFILE",)))
    record = supervisor.record_of("toy")
    assert record is not None
    seen = psutil.Process(record.pid).environ()
    assert {"PATH", "OWN", "AWS_PROFILE"} <= set(seen)
    assert "hush" not in seen.values()


def test_a_recycled_process_id_is_left_alone(supervisor: Supervisor, part: Part) -> None:
    supervisor.ensure(part)
    record = supervisor.records / "toy.json"
    facts = json.loads(record.read_text())
    supervisor.stop("toy")
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        long_ago = facts["started"] - 3600
        record.write_text(json.dumps({**facts, "pid": stranger.pid, "started": long_ago}))
        assert not supervisor.status(part).up
        assert not supervisor.stop("toy")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_part_that_ends_at_once_shows_the_end_of_its_log(
    supervisor: Supervisor, part: Part
) -> None:
    broken = make_part(part.port, code="raise SystemExit('no such database')")
    with pytest.raises(Unavailable, match="no such database"):
        supervisor.ensure(broken)


def test_a_part_that_never_answers_is_stopped_again(supervisor: Supervisor, part: Part) -> None:
    silent = make_part(part.port, code="import time; time.sleep(600)", start_timeout=1.0)
    with pytest.raises(Unavailable, match="no answer within 1 s"):
        supervisor.ensure(silent)
    assert pids(supervisor) == set()


def test_a_port_that_someone_else_has_is_named(supervisor: Supervisor, part: Part) -> None:
    with (
        socket.create_server(("127.0.0.1", part.port)),
        pytest.raises(Unavailable, match="another program listens there"),
    ):
        supervisor.ensure(part)
    assert supervisor.recorded() == []
