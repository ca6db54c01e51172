"""The warm parent: imports once, then forks a process for every module that it is asked to run.

    python -m infra.warm.server SOCKET MODULE...

It listens on a unix socket in a folder of its owner's. It holds no secret: it drops every variable that
is not known to be harmless, and what it runs gets its environment from whoever asks. When a file of
this project changes it starts itself anew.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NoReturn

from infra.warm.environment import without_secrets

STARTED = b"+"
_OWN = ("flows", "tasks", "merging", "infra")
_LONGEST = 1 << 20  # Bytes of a request; it carries a whole environment.


def main(address: Path, modules: list[str]) -> None:
    """Serves until it is told to end. It returns only in a fork, once the module there has run."""
    clean = without_secrets(os.environ)
    if clean.keys() != os.environ.keys():
        _start_anew(clean)  # Not only os.environ: the system shows what a process was started with.
    with socket.socket(socket.AF_UNIX) as listener:
        address.unlink(missing_ok=True)
        before = os.umask(0o177)
        listener.bind(str(address))
        os.umask(before)
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The keepers are nobody's to wait for.
        known: dict[str, int] = {}
        while True:
            connection, _ = listener.accept()
            if not known:  # The first to come waits for the imports; a stack without use has none.
                for name in modules:
                    importlib.import_module(name)
                known = _source_times()
                gc.freeze()  # A collection in a fork would copy the pages of all that is shared.
            elif _source_times() != known:
                _start_anew(clean)
            if os.fork() == 0:
                listener.close()
                break
            connection.close()
    _run(connection)


def _run(connection: socket.socket) -> None:
    """Receives a request, runs its module in a process of its own and reports how that ended."""
    message, files = _receive(connection)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job = os.fork()
    if job:
        _keep(connection, job)
    connection.close()
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
        os.close(file)
    os.chdir(message["directory"])
    os.environ.clear()
    os.environ.update(message["environment"])
    sys.argv = [message["module"], *message["arguments"]]
    # That the module was imported before is the point of it all.
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
    runpy.run_module(message["module"], run_name="__main__", alter_sys=True)


def _receive(connection: socket.socket) -> tuple[dict, list[int]]:  # type: ignore[type-arg]
    """A request, a line of JSON, and the files for standard output and standard error."""
    data, files, _, _ = socket.recv_fds(connection, _LONGEST, 2)
    while data and not data.endswith(b"\n"):
        more = connection.recv(_LONGEST)
        data = data + more if more else b""
    if not data:
        os._exit(0)
    return json.loads(data), files


def _keep(connection: socket.socket, job: int) -> NoReturn:
    """Passes signals on to a job, ends it when its asker is gone, and says how it ended."""
    with suppress(OSError):  # The asker may be gone already, which the thread sees as well.
        connection.sendall(STARTED)
    Thread(target=_pass_on, args=(connection, job), daemon=True).start()
    _, status = os.waitpid(job, 0)
    with suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _pass_on(connection: socket.socket, job: int) -> None:
    with suppress(
        OSError
    ):  # An asker that was killed before it read anything resets the connection.
        while number := connection.recv(1):
            os.kill(job, number[0])
    os.kill(job, signal.SIGKILL)


def _source_times() -> dict[str, int]:
    """When each imported file of this project was last changed; 0: it is gone."""
    own = [module for name, module in sys.modules.items() if name.partition(".")[0] in _OWN]
    files = {Path(module.__file__) for module in own if module.__file__}
    return {str(file): file.stat().st_mtime_ns if file.exists() else 0 for file in files}


def _start_anew(environment: dict[str, str]) -> NoReturn:
    os.execve(sys.executable, sys.orig_argv, environment)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
