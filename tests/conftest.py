"""The embedded stack, a family of tiny models for each test, and tiny trained experts."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from infra.settings import Settings
from tests.once import made_once

if TYPE_CHECKING:
    from infra.queue import MergeQueue

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# The tensors are tiny and the machine runs other things too; torch reads this when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"
# transformers otherwise hands each of their tensors to a thread when it loads a model.
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"

# What is imported is no garbage, and most of what tests make is small.
gc.set_threshold(100_000)

# No example fails for being slow: how long it takes is the machine's affair.
hypothesis_settings.register_profile(
    "supermerge",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("supermerge")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the servers for themselves come first; meanwhile others run what needs none.

    A process takes its tests from the front, and another one's, once it has none, from the end.
    """
    items.sort(
        key=lambda item: (
            not item.get_closest_marker("alone"),
            not item.get_closest_marker("e2e"),
            "stack" not in getattr(item, "fixturenames", ()),
        )
    )


@pytest.fixture(autouse=True, scope="session")
def _never_wait_for_the_disk() -> Iterator[None]:
    """No test cuts the power, and what a process has written every other one can read."""
    with mock.patch.object(os, "fsync"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _loaded_code_is_no_garbage() -> None:
    """Otherwise each look for garbage walks through all modules there are, for half a second."""
    gc.freeze()


@pytest.fixture(scope="session")
def run_dir(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if hasattr(pytestconfig, "workerinput") else own


@pytest.fixture(scope="session")
def _servers(pytestconfig: pytest.Config, run_dir: Path, base: Path) -> Iterator[Settings]:
    from tests.e2e.servers import running_stack

    root = run_dir / "stack"
    root.mkdir(exist_ok=True)
    run = os.getppid() if hasattr(pytestconfig, "workerinput") else os.getpid()
    with running_stack(root, base, run) as settings:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: settings.prefect_api}):
            yield settings


@pytest.fixture
def stack(_servers: Settings, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Every server of the embedded stack; no other test uses it where this one is marked `alone`."""
    from tests.e2e.servers import turn

    with turn(_servers, "alone" if request.node.get_closest_marker("alone") else "shared"):
        yield _servers


@pytest.fixture(scope="session")
def base(run_dir: Path) -> Path:
    """The tiny base checkpoint."""

    def write(folder: Path) -> None:
        from tests.e2e import tiny

        tiny.write_base(folder)

    return made_once(run_dir / "base", write)


@pytest.fixture(scope="session")
def empty_mlflow(run_dir: Path) -> Path:
    """MLflow's database with nothing in it; the migrations that make it take longer than most tests."""

    def write(folder: Path) -> None:
        from mlflow import MlflowClient

        folder.mkdir()
        with contextlib.chdir(folder):  # MLflow keeps artifacts where it is first used.
            MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return made_once(run_dir / "mlflow", write) / "mlflow.db"


@pytest.fixture(scope="session")
def expert(base: Path, run_dir: Path) -> Callable[..., Path]:
    """Trained expert folders, each made once."""

    def make(task: str, *, shuffled: bool = False, seed: int = 0) -> Path:
        def write(folder: Path) -> None:
            from tests.e2e import tiny

            tiny.write_expert(base, folder, task, shuffled=shuffled, seed=seed)

        return made_once(run_dir / f"{task}-{shuffled}-{seed}", write)

    return make


@pytest.fixture
def new_queue(stack: Settings) -> Callable[..., MergeQueue]:
    """Opens queues of families that no other test uses; their flows are started by hand."""
    from infra.queue import MergeQueue
    from tests.e2e.servers import new_family

    def make(
        promotion: str = "auto", kind: str = "text-classifier", *, served: bool = False
    ) -> MergeQueue:
        return MergeQueue.open(new_family(stack, promotion, kind, served=served), stack)

    return make


@pytest.fixture
def queue(new_queue: Callable[..., MergeQueue]) -> MergeQueue:
    """One that promotes by itself."""
    return new_queue()


queue_twin = queue
"""A second one, for comparison."""


@pytest.fixture
def review_queue(new_queue: Callable[..., MergeQueue]) -> MergeQueue:
    """One whose candidates wait for a person; see `serve`."""
    return new_queue("review", served=True)


@pytest.fixture
def serve(stack: Settings) -> Callable[[MergeQueue], AbstractContextManager[None]]:
    """Makes the receiver listen for a queue: meanwhile webhooks start its flows, in the worker."""
    from tests.e2e.servers import served_families

    @contextmanager
    def listen(queue: MergeQueue) -> Iterator[None]:
        served = served_families(stack.state_dir.parent) / f"{queue.name}.yaml"
        shutil.copy(stack.families_dir / served.name, served)
        yield
        served.unlink()

    return listen


@pytest.fixture
def served_queue(new_queue: Callable[..., MergeQueue], serve: Callable) -> Iterator[MergeQueue]:
    """One whose flows start by webhook all along."""
    queue = new_queue(served=True)
    with serve(queue):
        yield queue


@pytest.fixture
def land() -> Callable:
    """Registers an expert through the MLflow client alone, as a training job would."""

    def register(queue, task: str, folder: Path):  # type: ignore[no-untyped-def]
        import boto3
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        name, prefix = f"{queue.name}-{task}", f"uploads/{queue.name}/{task}/{folder.name}"
        s3 = boto3.client("s3")
        for path in folder.iterdir():
            s3.upload_file(str(path), "supermerge", f"{prefix}/{path.name}")
        client = MlflowClient()
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name,
            f"s3://supermerge/{prefix}",
            tags={"merge.family": queue.name, "merge.task": task},
        )
        return queue.registry.experts.get(name, int(version.version))

    return register


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A private copy of a folder that a test may spoil."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / f"copy-{folder.name}"))

    return copy
