"""Asks the warm parent to run a module, or runs it in a new interpreter where there is none.

Called as follows it stands for the module's process; output, exit status and signals are passed on::

    python -m infra.warm.client SOCKET MODULE [ARGUMENT...]
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_CODE = Path(__file__).resolve().parents[2]
_PATIENCE = 120  # Seconds to wait for a parent that is still importing.
_LONGEST_ADDRESS = 100  # Bytes; the system takes no longer path of a socket.


def address_in(state_dir: Path) -> Path:
    """Where the warm parent of the stack with this state folder listens."""
    return state_dir / "warm.sock"


def can_listen(address: Path) -> bool:
    """Whether a socket can have this address."""
    return len(os.fsencode(address)) <= _LONGEST_ADDRESS


def ask(
    address: Path,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    files: tuple[int, int],
) -> socket.socket | None:
    """Has a module run in a folder, with an environment, standard output and standard error.

    Returns:
        The connection, once the module runs: a byte sent is a signal for it, its exit status comes
        back, and closing it kills what still runs. None where there is no parent to ask.
    """
    request = {
        "module": module,
        "arguments": list(arguments),
        "environment": dict(environment),
        "directory": str(directory),
    }
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_PATIENCE)
        connection.connect(str(address))
        data = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(connection, [data], files)
        connection.sendall(data[sent:])
        if connection.recv(1):
            connection.settimeout(None)
            return connection
    except OSError:  # There is none, or it starts itself anew.
        pass
    connection.close()
    return None


def exit_status(connection: socket.socket) -> int:
    """Waits for the end of what was asked for; a parent that is gone counts as a kill."""
    data = b"".join(iter(lambda: connection.recv(64), b""))
    return int(data) if data else -signal.SIGKILL


def run_apart(
    address: Path,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    limit: float,
) -> tuple[int, str]:
    """Runs a module in a process of its own that sees no environment but the given one.

    Args:
        address: Of the warm parent.
        module: Run as ``python -m`` does.
        arguments: Of the module.
        environment: All variables of the process.
        limit: Seconds after which it is killed.

    Returns:
        Its exit status, negative where a signal ended it, and what it wrote.

    Raises:
        TimeoutError: It took longer than `limit` and was killed.
    """
    with tempfile.TemporaryFile() as output:
        files = (output.fileno(), output.fileno())
        connection = ask(address, module, arguments, environment, _CODE, files)
        try:
            if connection is not None:
                with connection:
                    connection.settimeout(limit)
                    status = exit_status(connection)
            else:
                command = [sys.executable, "-m", module, *arguments]
                status = subprocess.run(
                    command,
                    cwd=_CODE,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    timeout=limit,
                    check=False,
                ).returncode
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        output.seek(0)
        return status, output.read().decode(errors="replace")


def main(address: Path, module: str, arguments: list[str]) -> None:
    """Stands for the process of a module that the warm parent runs."""
    connection = ask(address, module, arguments, os.environ, Path.cwd(), (1, 2))
    if connection is None:
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: connection.sendall(bytes([received])))
    status = exit_status(connection)
    if status < 0:  # Whoever waits for this process has to see how that one ended.
        with suppress(OSError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
