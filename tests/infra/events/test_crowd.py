"""A crowd of strangers costs the receiver little, and keeps nobody out whom MLflow has signed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from infra.events.bodies import MAX_BYTES
from tests.infra.events.test_described import SECRET, sign

LIFETIME = 3.0
"""Seconds that a connection lasts here, so that the test is soon over."""
MOST = 550
"""Connections at once."""
ALLOWED = MAX_BYTES + 64 * 1024**2
"""Bytes that it may grow by: what it holds of bodies, and the buffers of 500 connections."""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[str, int, psutil.Process]]:
    """A receiver in a process of its own, whose connections end soon."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = (
        "from infra.events.serve import serve; from infra.events.receiver import create_app;"
        f"serve(create_app(), '127.0.0.1', {port}, lifetime={LIFETIME}, most={MOST})"
    )
    environment = {
        "SUPERMERGE_MLFLOW_URI": "http://127.0.0.1:9",
        "SUPERMERGE_PREFECT_API": "http://127.0.0.1:9/api",
        "SUPERMERGE_WEBHOOK_SECRET": SECRET,
        "SUPERMERGE_FAMILIES_DIR": str(tmp_path),
        "SUPERMERGE_STATE_DIR": str(tmp_path),
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", start], env=os.environ | environment, stderr=output
        )
        try:
            while not _answers(port):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield log, port, psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").is_success
    except httpx.TransportError:
        return False


FORGED = "".join(f"{name}: {value}\r\n" for name, value in sign(b"something else").items())
BEGIN = "POST /mlflow HTTP/1.1\r\nHost: x\r\n"
ENDLESS = "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n"
CROWD = {
    "half a request": BEGIN,
    "endless, unsigned": f"{BEGIN}{ENDLESS}",
    "endless, forged": f"{BEGIN}{FORGED}{ENDLESS}",
    "slow": f"{BEGIN}{FORGED}Content-Length: 2000000\r\n\r\n",
    "no HTTP": "\x16\x03\x01",
}


def test_500_strangers_cost_little_and_what_is_signed_passes(receiver) -> None:
    log, port, process = receiver
    before = process.memory_info().rss
    with ExitStack() as stack:
        crowd = []
        for number in range(500):
            kind = list(CROWD)[number % len(CROWD)]
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.sendall(CROWD[kind].encode("latin-1"))
            one.setblocking(False)
            crowd.append((kind, one))
        most, passed = before, set()
        for _ in range(24):
            for kind, one in crowd:
                if kind.startswith("endless"):
                    _push(one)
            most = max(most, process.memory_info().rss)
            passed.add(_deliver(port))
        for _, one in crowd:
            _until_it_is_cut(one)
    assert passed == {204}
    assert most - before < ALLOWED
    assert _deliver(port) == 204
    assert log.stat().st_size < 20_000
    assert "Traceback" not in log.read_text()


def test_more_than_it_takes_at_once_make_room_for_whoever_comes(receiver) -> None:
    _, port, process = receiver
    before = process.num_fds()
    with ExitStack() as stack:
        for _ in range(MOST + 200):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert _deliver(port) == 204
        assert process.num_fds() <= before + MOST


def _push(one: socket.socket) -> None:
    with suppress(BlockingIOError, ConnectionError):  # It does not take more, or has gone.
        one.send(bytes(0x10000))


def _deliver(port: int) -> int:
    body = b'{"entity": "model_version", "action": "created"}'
    return httpx.post(
        f"http://127.0.0.1:{port}/mlflow", content=body, headers=sign(body)
    ).status_code


def _until_it_is_cut(one: socket.socket) -> None:
    one.setblocking(True)
    with suppress(ConnectionError):
        while one.recv(65536):
            pass
