"""The warm parent runs modules as a new interpreter would, and the one who asks stands for them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from infra.warm import environment
from infra.warm.client import run_apart

SECRET = {"AWS_SECRET_ACCESS_KEY": "hush-hush", "SUPERMERGE_WEBHOOK_SECRET": "hush-hush"}
PLAIN = {"PATH": os.environ["PATH"]}


def code(statement: str) -> list[str]:
    """Arguments with which the module `timeit` runs a statement once."""
    return ["-n", "1", "-r", "1", statement]


def client(address: Path, statement: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "infra.warm.client", str(address), "timeit", *code(statement)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def jobs(parent: psutil.Process) -> list[psutil.Process]:
    """What the parent runs at present; each is a keeper's child."""
    running = []
    for keeper in parent.children():
        with suppress(psutil.NoSuchProcess):
            running += keeper.children()
    return running


def wait_for(what) -> None:
    for _ in range(600):
        if what():
            return
        time.sleep(0.05)
    pytest.fail("it did not come about")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[psutil.Process]:
    address = tmp_path_factory.mktemp("warm") / "warm.sock"
    command = [sys.executable, "-m", "infra.warm.server", str(address), "timeit"]
    with subprocess.Popen(command, env={**os.environ, **SECRET}) as server:
        wait_for(address.is_socket)
        yield psutil.Process(server.pid)
        server.kill()


@pytest.fixture
def address(parent: psutil.Process) -> Path:
    return Path(parent.cmdline()[-2])


@pytest.fixture
def nobody(tmp_path: Path) -> Path:
    """An address at which nobody listens."""
    return tmp_path / "warm.sock"


@pytest.mark.parametrize("where", ["address", "nobody"])
@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("print('done')", 0),
        ("raise ValueError('no')", 1),
        ("import os; os.kill(os.getpid(), 9)", -9),
    ],
)
def test_a_module_ends_as_it_would_in_a_new_interpreter(where, statement, status, request):
    address = request.getfixturevalue(where)
    ended, said = run_apart(address, "timeit", code(statement), PLAIN, limit=60)
    assert ended == status
    assert status or "done" in said


def test_what_the_parent_imported_is_there_already(address, nobody):
    statement = "import sys; print('infra.warm.environment' in sys.modules)"
    assert "True" in run_apart(address, "timeit", code(statement), PLAIN, limit=60)[1]
    assert "False" in run_apart(nobody, "timeit", code(statement), PLAIN, limit=60)[1]


def test_no_secret_of_who_started_it_is_in_its_environment(address, parent):
    statement = "print(open(f'/proc/{__import__(\"os\").getpid()}/environ').read())"
    _, said = run_apart(address, "timeit", code(statement), PLAIN, limit=60)
    assert "PATH=" in said
    assert "hush" not in said
    assert "hush" not in str(parent.environ())


def test_only_the_owner_may_ask(address):
    assert stat.S_IMODE(address.stat().st_mode) == 0o600


def test_what_takes_too_long_is_killed(address, parent):
    with pytest.raises(TimeoutError):
        run_apart(address, "timeit", code("import time; time.sleep(600)"), PLAIN, limit=0.5)
    wait_for(lambda: not jobs(parent))


def test_the_one_who_asks_stands_for_the_module(address):
    with client(address, "print('heard'); 1 / 0") as asking:
        assert "heard" in asking.communicate()[0]
    assert asking.returncode == 1


def test_a_signal_reaches_the_module_and_its_end_is_told(address, parent):
    with client(address, "import time; time.sleep(600)") as asking:
        wait_for(lambda: jobs(parent))
        asking.send_signal(signal.SIGTERM)
    assert asking.returncode == -signal.SIGTERM


def test_a_module_ends_with_the_one_who_asked(address, parent):
    with client(address, "import time; time.sleep(600)") as asking:
        wait_for(lambda: jobs(parent))
        asking.kill()
    wait_for(lambda: not jobs(parent))


def test_the_kill_of_a_module_is_seen_by_the_one_who_asked(address, parent):
    with client(address, "import time; time.sleep(600)") as asking:
        wait_for(lambda: jobs(parent))
        jobs(parent)[0].kill()
    assert asking.returncode == -signal.SIGKILL


def test_it_starts_anew_when_a_file_of_the_project_has_changed(address, parent):
    source = Path(environment.__file__)
    before = source.stat()
    run_apart(address, "timeit", code("1"), PLAIN, limit=60)  # Now it has imported everything.
    bound = address.stat().st_ctime_ns
    try:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        status, said = run_apart(address, "timeit", code("print('done')"), PLAIN, limit=60)
    finally:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert status == 0
    assert "done" in said, "meanwhile a new interpreter runs the module"
    wait_for(lambda: address.is_socket() and address.stat().st_ctime_ns > bound)
    assert parent.is_running()
