"""What starting up costs: imports, commands, an idle sweep, an approval, a health check.

python -m benchmarks.startup

It starts a stack of its own in a temporary folder, merges one tiny expert into a family under review and
stops the stack again. CPU is user and system time of a command and of what it started itself; what a
server does for it, the warm parent among them, is in the wall time only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
FAMILY = "tiny"
MODULES = (
    *("infra.cli", "infra.queue", "flows.continual_merge", "flows.promote"),
    *("tasks.values", "merging.gate", "mlflow", "prefect", "torch", "great_expectations"),
)


def main() -> None:
    """Prints one table."""
    print(f"{'':44}{'CPU s':>8}{'wall s':>8}{'MB':>7}")
    for module in MODULES:
        measure(f"import {module}", sys.executable, "-c", f"import {module}")
    command("--help")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ |= {
            "SUPERMERGE_STATE_DIR": str(root / "state"),
            "SUPERMERGE_FAMILIES_DIR": str(root / "families"),
            "OMP_NUM_THREADS": "1",
        }
        # In another process, because a child's memory is counted from its parent's upwards.
        script = f"from benchmarks.startup import *; prepare(Path({folder!r}))"
        measure("", sys.executable, "-c", script, shown=False)
        command("up")
        try:
            with_stack(root)
        finally:
            command("down", shown=False)


def with_stack(root: Path) -> None:
    """What needs servers, in the life of one expert."""
    command("upload-base", FAMILY, str(root / "base"), shown=False)
    command("register", FAMILY, "weather", str(root / "expert"))
    run_in_worker("the merge of one expert", settled)
    command("status", FAMILY)
    command("history", FAMILY)
    command("approve", FAMILY, "1", name="approval, as a command")
    command("merge", FAMILY, name="idle sweep, as a command")
    run_in_worker("idle sweep, in the worker", sweep)
    run_in_worker("idle sweep, in the worker, again", sweep)
    command("pull", FAMILY, str(root / "pulled"))
    check = f"from pathlib import Path; check_answers(Path({str(root / 'pulled')!r}))"
    script = f"from infra.packaging.probe import check_answers; {check}"
    measure("health check of what was pulled", sys.executable, "-c", script)


def prepare(root: Path) -> None:
    """A family under review, its base and one expert."""
    from tests.e2e import tiny

    family = {
        "name": FAMILY,
        "kind": "text-classifier",
        "base": "s3://supermerge/bases/tiny",
        "bucket": "supermerge",
        "promotion": "review",
        "device": "cpu",
        "merge": {"steps": 50, "row_share": 0.2, "calibration_size": 128},
        "gate": {"margin": 0.05},
    }
    (root / "families").mkdir()
    (root / "families" / f"{FAMILY}.yaml").write_text(yaml.safe_dump(family))
    tiny.write_base(root / "base")
    tiny.write_expert(root / "base", root / "expert", "weather")


def command(*arguments: str, name: str = "", shown: bool = True) -> None:
    """Runs a command of `supermerge` and prints what it cost."""
    script = "import sys; from infra.cli import app; sys.argv[0] = 'supermerge'; app()"
    title = name or f"supermerge {arguments[0]}"
    measure(title, sys.executable, "-c", script, *arguments, shown=shown)


def measure(title: str, *arguments: str, shown: bool = True) -> None:
    """Runs a process and prints its CPU, its wall time and its greatest resident memory."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(arguments, cwd=PROJECT, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        if status:
            output.seek(0)
            sys.exit(f"{title} failed:\n{output.read().decode()}")
    if shown:
        cpu = used.ru_utime + used.ru_stime
        print(f"{title:44}{cpu:8.2f}{wall:8.2f}{used.ru_maxrss / 1024:7.0f}", flush=True)


def run_in_worker(title: str, what: Callable[[], None]) -> None:
    """Prints how long something takes that the worker does; its CPU is not ours to see."""
    began = time.monotonic()
    what()
    print(f"{title:44}{'':8}{time.monotonic() - began:8.2f}", flush=True)


def sweep() -> None:
    """Starts a sweep in the worker and waits for its end."""
    import httpx

    from infra.settings import Settings

    settings = Settings.load()
    with httpx.Client(base_url=settings.prefect_api, timeout=60) as client:
        deployment = client.get(f"/deployments/name/continual-merge/{FAMILY}").json()["id"]
        wanted = {"parameters": {"family": FAMILY}, "state": {"type": "SCHEDULED"}}
        run = client.post(f"/deployments/{deployment}/create_flow_run", json=wanted).json()["id"]
        while client.get(f"/flow_runs/{run}").json()["state_type"] != "COMPLETED":
            time.sleep(0.1)


def settled() -> None:
    """Waits until the registered expert is in a candidate and its run has ended."""
    import httpx

    from infra.settings import Settings

    settings = Settings.load()
    versions = f"{settings.mlflow_uri}/api/2.0/mlflow/model-versions/search"
    while not httpx.get(versions, params={"filter": f"name = '{FAMILY}'"}).json():
        time.sleep(0.2)
    under_way = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}}
    while httpx.post(f"{settings.prefect_api}/flow_runs/count", json=under_way).json():
        time.sleep(0.2)


if __name__ == "__main__":
    main()
