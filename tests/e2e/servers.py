"""One embedded stack for all processes of a test run, stopped when the run is over, however it ends.

python -m tests.e2e.servers PID STATE_DIR    # waits for the end of that process, stops the stack
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from uuid import uuid4

import psutil
import yaml

from infra.settings import PROJECT, Settings
from infra.stack import start_stack, stop_stack
from infra.stack.supervise import has_ended
from infra.storage.store import S3Uri, connect_store
from tests.once import alone

SERVED = tuple(f"served-{number}" for number in range(1, 6))
"""Families whose deployments Prefect has."""


@contextmanager
def running_stack(root: Path, base: Path, run: int) -> Iterator[Settings]:
    """The stack of this run in ``root``, started by the first process that asks for it.

    Args:
        root: A folder that the run's processes share.
        base: Checkpoint that the families' experts were trained from; it is put into the store.
        run: The process that has ended when the run has.
    """
    state, everything = root / "state", root / "all"
    before = dict(os.environ)
    os.environ["SUPERMERGE_STATE_DIR"] = str(state)
    try:
        with alone(root / "lock"):
            if not everything.exists():
                _start(root, base, run)
                everything.mkdir()
        os.environ["SUPERMERGE_FAMILIES_DIR"] = str(everything)
        settings = Settings.load()
        settings.apply()
        yield settings
    finally:
        os.environ.clear()
        os.environ.update(before)


def _start(root: Path, base: Path, run: int) -> None:
    watch = [sys.executable, "-m", __name__, str(run), str(root / "state")]
    null = subprocess.DEVNULL
    subprocess.Popen(
        watch, cwd=PROJECT, stdin=null, stdout=null, stderr=null, start_new_session=True
    )
    served = served_families(root)
    served.mkdir(exist_ok=True)
    os.environ["SUPERMERGE_FAMILIES_DIR"] = str(served)
    for name in SERVED:
        _write_family(served / f"{name}.yaml")
    settings = start_stack(root / "state")
    for name in SERVED:  # Prefect has their deployments; the receiver hears of them one by one.
        (served / f"{name}.yaml").unlink()
    store = connect_store(settings)
    for path in base.iterdir():
        store.upload(path, S3Uri("supermerge", "bases/tiny") / path.name)


def served_families(root: Path) -> Path:
    """The families that the receiver knows; webhooks start their flows, in the worker."""
    return root / "served"


@contextmanager
def turn(stack: Settings, kind: Literal["shared", "alone"]) -> Iterator[None]:
    """Shares the servers with other tests, or has them alone, to stop and to change them.

    Who waits to be alone is not overtaken by those who share.
    """
    with (stack.state_dir.parent / "use").open("w") as use:
        with alone(stack.state_dir.parent / "turn"):
            fcntl.flock(use, fcntl.LOCK_EX if kind == "alone" else fcntl.LOCK_SH)
        yield


def new_family(stack: Settings, promotion: str, kind: str, *, served: bool = False) -> str:
    """Writes the file of a family that no other test uses; gives its name.

    Args:
        stack: The servers.
        promotion: The family's way of promotion.
        kind: The family's kind of model.
        served: Whether its flows can be started in the worker.
    """
    if not served:
        name = f"tiny-{uuid4().hex[:12]}"
        _write_family(stack.families_dir / f"{name}.yaml", promotion, kind)
        return name
    for name in SERVED:
        with suppress(FileExistsError):
            (stack.families_dir / f"{name}.yaml").touch(exist_ok=False)
            _write_family(stack.families_dir / f"{name}.yaml", promotion, kind)
            return name
    raise AssertionError("add a name to SERVED")


def _write_family(file: Path, promotion: str = "auto", kind: str = "text-classifier") -> None:
    name = file.stem
    family = {
        "name": name,
        "kind": kind,
        "base": f"s3://supermerge/bases/{'tiny' if kind == 'text-classifier' else name}",
        "bucket": "supermerge",
        "promotion": promotion,
        "ladder": ["relearn"],
        "device": "cpu",
        "merge": {"steps": 50, "row_share": 0.2, "calibration_size": 128},
        "gate": {"margin": 0.05},
        "schedule": None,
        "audit_schedule": None,
        "gc_schedule": None,
    }
    file.write_text(yaml.safe_dump(family))


def _stop_after(run: int, state_dir: Path) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(run)
        while not has_ended(process):
            time.sleep(0.5)
    stop_stack(state_dir)


if __name__ == "__main__":
    _stop_after(int(sys.argv[1]), Path(sys.argv[2]))
