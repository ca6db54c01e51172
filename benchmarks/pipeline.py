"""What the queue costs beside learning and answering: requests, bytes and seconds, arrival by arrival.

python -m benchmarks.pipeline --arrivals 50

It starts a stack of its own in a temporary folder and registers small experts one after another: first
for a family whose merges run in this process, where everything that is asked of a server is counted, then
for one whose merges are started by webhook, in the worker.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import requests
import yaml

SHOWN = (1, 2, 5, 10, 20, 30, 40, 50)
SERVED = 3  # Arrivals that a webhook announces.
S3, MLFLOW, PREFECT = "S3", "MLflow", "Prefect"


class Meter:
    """Requests by server, bytes from and to S3, and seconds by what they went into."""

    def __init__(self) -> None:
        self.ports: dict[int | None, str] = {}
        self.clear()

    def clear(self) -> None:
        """Counts from nought."""
        self.requests: Counter[str] = Counter()
        self.moved = 0
        self.seconds: dict[str, float] = defaultdict(float)

    def count(self, url: str) -> None:
        """One request."""
        server = self.ports.get(httpx.URL(url).port)
        if server:
            self.requests[server] += 1

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is added to its kind."""

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[kind] += time.perf_counter() - start

        return call


@contextmanager
def metered(meter: Meter) -> Iterator[None]:
    """Counts what this process asks, and times learning, answering and moving of bytes."""
    from botocore.httpsession import URLLib3Session

    from infra.engine import Engine
    from infra.storage.s3 import S3Store

    def counted(owner: type, name: str, url: Callable[[Any], str]) -> Any:
        real = getattr(owner, name)

        @wraps(real)
        def call(self: Any, request: Any, *arguments: Any, **named: Any) -> Any:
            meter.count(url(request))
            answer = real(self, request, *arguments, **named)
            if owner is URLLib3Session:
                sent = int(request.headers.get("Content-Length") or 0)
                meter.moved += sent + int(answer.headers.get("Content-Length") or 0)
            return answer

        return mock.patch.object(owner, name, call)

    real = Engine.real

    def engine(cls: type[Engine]) -> Engine:
        parts = vars(real())
        kinds = {"learn": "learning"}
        return cls(**{n: meter.timed(kinds.get(n, "answering"), f) for n, f in parts.items()})

    moves = {name: meter.timed("moving", getattr(S3Store, name)) for name in ("upload", "download")}
    with (
        counted(URLLib3Session, "send", lambda request: request.url),
        counted(requests.Session, "send", lambda request: request.url),
        counted(httpx.Client, "send", lambda request: str(request.url)),
        counted(httpx.AsyncClient, "send", lambda request: str(request.url)),
        mock.patch.object(Engine, "real", classmethod(engine)),
        mock.patch.multiple(S3Store, **moves),  # type: ignore[call-overload]
    ):
        yield


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrivals", type=int, default=max(SHOWN))
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ |= {
            "SUPERMERGE_STATE_DIR": str(root / "state"),
            "SUPERMERGE_FAMILIES_DIR": str(root / "served"),
            "OMP_NUM_THREADS": "1",
            "PREFECT_LOGGING_LEVEL": "ERROR",
        }
        from infra.stack import start_stack, stop_stack

        for name, place in (("served", "served"), ("served", "all"), ("counted", "all")):
            write_family(root / place, name)
        try:
            settings = start_stack(root / "state")
            settings.apply()
            os.environ["SUPERMERGE_FAMILIES_DIR"] = str(root / "all")
            make_limits(settings)
            measure(root, wanted.arrivals)
        finally:
            stop_stack(root / "state")


def write_family(directory: Path, name: str) -> None:
    """A family of small models that learns a little and lets pass what is not much worse."""
    from infra.families import Family

    family = {
        "name": name,
        "kind": "text-classifier",
        "base": "s3://supermerge/bases/tiny",
        "bucket": "supermerge",
        "device": "cpu",
        # All experts go the same way, so what starts higher goes too far.
        "merge": {
            "steps": 5,
            "granularity": "tensor",
            "calibration_size": 32,
            "initial": 0.02,
        },
        "gate": {"margin": 0.49, "retention_floor_old": 0, "retention_floor_new": 0},
        # Nothing but what is measured runs meanwhile.
        "schedule": None,
        "audit_schedule": None,
        "gc_schedule": None,
    }
    directory.mkdir(exist_ok=True)
    known = {key: value for key, value in family.items() if key in Family.model_fields}
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(known))


def make_limits(settings: Any) -> None:
    """Releases before the present one wanted a family's limit to be there."""
    try:
        from infra.stack.orchestration import create_family_limits  # type: ignore[attr-defined]
    except ImportError:
        return
    create_family_limits(settings, ["counted", "served"])


class Experts:
    """Experts of one small model, each with a little noise and with a table of its own."""

    def __init__(self, root: Path) -> None:
        from tests.e2e import tiny

        self._root = root
        self.base = tiny.write_base(root / "base")
        self._first = tiny.write_expert(self.base, root / "expert", "weather")

    def write(self, number: int) -> Path:
        """The folder of one."""
        import torch
        from safetensors.torch import load_file, save_file

        from tests.e2e import tiny

        folder = Path(shutil.copytree(self._first, self._root / f"expert-{number}"))
        torch.manual_seed(number)
        weights = load_file(folder / "model.safetensors")
        noisy = {n: w + 1e-4 * torch.randn_like(w) for n, w in weights.items()}
        save_file(noisy, folder / "model.safetensors", {"format": "pt"})
        table = tiny.write_table("weather", 500, seed=1000 + number)
        table.to_parquet(folder / "examples.parquet")
        return folder


def measure(root: Path, arrivals: int) -> None:
    """Counted arrivals, idle sweeps between them, and arrivals that a webhook announces."""
    from infra.queue import MergeQueue
    from infra.storage.store import S3Uri

    experts, meter = Experts(root), Meter()
    with metered(meter):
        queue = MergeQueue.open("counted")
        for path in experts.base.iterdir():
            queue.store.upload(path, S3Uri("supermerge", "bases/tiny") / path.name)
        meter.ports = {
            httpx.URL(queue.settings.s3_endpoint or "").port: S3,
            httpx.URL(queue.settings.mlflow_uri).port: MLFLOW,
            httpx.URL(queue.settings.prefect_api).port: PREFECT,
        }
        logging.disable(logging.WARNING)
        head = ("S3", "MLflow", "Prefect", "MB", "s", "learn", "answer", "move", "overhead")
        print(f"{'':12}" + "".join(f"{word:>10}" for word in head), flush=True)
        for number in range(1, arrivals + 1):
            land(queue, number, experts.write(number))
            row = run(meter, "counted", ["promoted"])
            if number in SHOWN:
                print(f"arrival {number:<4}{row}", flush=True)
                print(f"idle at {number:<4}{run(meter, 'counted', [])}", flush=True)
    queue = MergeQueue.open("served")
    for number in range(SERVED):
        started, ended = served(queue, number, experts.write(1000 + number))
        print(
            f"by webhook: run started after {started:.1f} s, promoted after {ended:.1f} s",
            flush=True,
        )


def land(queue: Any, number: int, folder: Path) -> Any:
    """Uploads and registers an expert as a training job does."""
    from infra.storage.store import S3Uri

    source = S3Uri("supermerge", f"uploads/{queue.name}/{number}")
    for path in folder.iterdir():
        queue.store.upload(path, source / path.name)
    return queue.registry.experts.register(queue.name, f"task-{number}", source, "")


def run(meter: Meter, family: str, verdicts: list[str]) -> str:
    """One run of the flow in this process, and its row."""
    from flows.continual_merge import continual_merge

    meter.clear()
    start = time.perf_counter()
    outcomes = continual_merge(family)
    seconds = time.perf_counter() - start
    if [outcome.verdict for outcome in outcomes] != verdicts:
        raise SystemExit(f"expected {verdicts}, found {outcomes}")
    spent = [meter.seconds[kind] for kind in ("learning", "answering", "moving")]
    counts = [meter.requests[server] for server in (S3, MLFLOW, PREFECT)]
    times = [seconds, *spent, seconds - sum(spent)]
    return "".join(f"{n:10}" for n in counts) + "".join(
        f"{n:10.1f}" for n in (meter.moved / 1e6, *times)
    )


def served(queue: Any, number: int, folder: Path) -> tuple[float, float]:
    """Seconds from an expert's registration to the start of its run, and to its promotion."""
    with httpx.Client(base_url=queue.settings.prefect_api, timeout=60) as prefect:
        before = {run["id"] for run in runs(prefect)}
        registered = time.time()
        expert = land(queue, number, folder)
        while queue.registry.experts.get(expert.name, expert.version).status != "merged":
            if time.time() > registered + 600:
                raise SystemExit(f"{expert.ref} was not merged within ten minutes")
            time.sleep(0.2)
        ended = time.time() - registered
        (new, *_) = (r for r in runs(prefect) if r["id"] not in before and r["start_time"])
    from datetime import datetime

    return datetime.fromisoformat(new["start_time"]).timestamp() - registered, ended


def runs(prefect: httpx.Client) -> list[dict[str, Any]]:
    """The merges that Prefect knows, oldest first."""
    wanted = {"flows": {"name": {"any_": ["continual-merge"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    found: list[dict[str, Any]] = prefect.post("/flow_runs/filter", json=wanted).json()
    return [run for run in found if run["parameters"].get("family") == "served"]


if __name__ == "__main__":
    main()
