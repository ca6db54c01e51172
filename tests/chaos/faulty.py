"""Real servers behind a proxy that spoils what passes it, and a queue that has to live with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from infra.queue import MergeQueue
from infra.settings import PROJECT, Settings
from tests.chaos import invariants
from tests.stories.given import GivenEngine
from tests.stories.plain_prefect import plain_prefect
from tests.stories.tester import with_given

OPEN = MergeQueue.open
MITMDUMP = PROJECT / ".venv-mitmproxy" / "bin" / "mitmdump"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and with which requests.

    Attributes:
        of: A pattern of the requests' methods and paths.
        moment: `before` a request reaches the server, or `after` it was carried out.
        kind: An HTTP status; `reset`; `late`; `wrong` bytes of the right length; `short`, half of them.
        times: How many requests are spoilt.
        seconds: How late an answer comes.
    """

    of: str
    moment: str
    kind: str
    times: int = 1
    seconds: float = 0

    def __str__(self) -> str:
        often = f"{self.times} times" if self.times < 99 else "each time"
        return f"{self.kind} {self.moment} {self.of}, {often}"


class Proxy:
    """One server, seen through mitmproxy."""

    def __init__(self, server: str, folder: Path) -> None:
        folder.mkdir()
        self._file = folder / "fault.json"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        addon = Path(__file__).with_name("addon.py")
        command = [MITMDUMP, "--mode", f"reverse:{server}", "--listen-host", "127.0.0.1", "-q"]
        command += ["--listen-port", port, "--set", "keep_host_header=true", "-s", addon]
        command += ["--set", f"confdir={folder}"]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                list(map(str, command)),
                env={**os.environ, "FAULT": str(self._file)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    return
            assert time.monotonic() < deadline, "mitmproxy does not start"
            time.sleep(0.2)

    def spoil(self, fault: Fault | None) -> None:
        """From now on this goes wrong."""
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps(vars(fault)) if fault else "")
        beside.replace(self._file)

    def end(self) -> None:
        process = psutil.Process(self._process.pid)
        process.terminate()
        process.wait(20)


@contextmanager
def queue_behind(
    stack: Settings, s3: Proxy, mlflow: Proxy, given: GivenEngine
) -> Iterator[list[str]]:
    """Flows run right here, with answers that are given, and reach both servers by their proxies."""
    told: list[str] = []
    addresses = {"s3_endpoint": s3.address, "mlflow_uri": mlflow.address}

    def opened(family: str, *_: Any) -> MergeQueue:
        return with_given(OPEN(family, stack.model_copy(update=addresses)), given)

    with (
        mock.patch.object(MergeQueue, "open", opened),
        plain_prefect(told.append, str, [], {}),
    ):
        yield told


def check(queue: MergeQueue, log: invariants.Log) -> None:
    """The log is true, and what is deployed has the bytes that were recorded, past every proxy."""
    import tempfile

    from infra.storage.manifest import download_model

    for entry in log.grown(queue):
        manifest = invariants.check_entry(queue, entry)
        with tempfile.TemporaryDirectory() as folder:
            download_model(queue.store, entry.model.location, manifest, Path(folder))
