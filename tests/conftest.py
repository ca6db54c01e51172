"""The embedded stack, a family of tiny models for each test, and tiny trained experts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from infra.settings import Settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# The tensors are tiny and the machine runs other things too; torch reads this when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"

# No example fails for being slow: how long it takes is the machine's affair.
hypothesis_settings.register_profile(
    "supermerge",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("supermerge")

SERVED = "tiny-served"
"""The one family that the receiver knows: its flows are started by webhooks, in the worker."""
CALLED = tuple(f"tiny-{i}" for i in range(32))
"""Families whose flows the tests call themselves; no webhook interferes."""


OTHER_KINDS = ("image-classifier", "generator")
"""Kinds with a family each, of the same name, whose flows the tests call."""


def _family(name: str, promotion: str) -> dict:
    return {
        "name": name,
        "kind": name if name in OTHER_KINDS else "text-classifier",
        "base": f"s3://supermerge/bases/{name if name in OTHER_KINDS else 'tiny'}",
        "bucket": "supermerge",
        "promotion": promotion,
        "ladder": ["relearn"],
        "device": "cpu",
        "merge": {"steps": 50, "row_share": 0.2, "calibration_size": 128},
        "gate": {"margin": 0.05},
    }


def _write_families(folder: Path, families: dict[str, str]) -> Path:
    folder.mkdir()
    for name, promotion in families.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(_family(name, promotion)))
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Every server of the embedded stack, with families of its own."""
    from infra.stack import start_stack, stop_stack
    from infra.stack.orchestration import create_family_limits

    root = tmp_path_factory.mktemp("stack")
    served = _write_families(root / "served", {SERVED: "auto"})
    called = dict.fromkeys(CALLED, "auto") | {f"{name}-review": "review" for name in CALLED}
    called |= dict.fromkeys(OTHER_KINDS, "auto")
    everything = _write_families(root / "all", {SERVED: "auto", **called})
    before = dict(os.environ)
    os.environ["SUPERMERGE_STATE_DIR"] = str(root / "state")
    os.environ["SUPERMERGE_FAMILIES_DIR"] = str(served)
    try:
        settings = start_stack(root / "state")
        os.environ["SUPERMERGE_FAMILIES_DIR"] = str(everything)
        settings = Settings.load()
        settings.apply()
        create_family_limits(settings)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: settings.prefect_api}):
            yield settings
    finally:
        stop_stack(root / "state")
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base checkpoint."""
    from tests.e2e import tiny

    return tiny.write_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="session")
def expert(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trained expert folders, each made once."""
    from tests.e2e import tiny

    root = tmp_path_factory.mktemp("experts")

    def make(task: str, *, shuffled: bool = False, seed: int = 0) -> Path:
        folder = root / f"{task}-{shuffled}-{seed}"
        if not folder.exists():
            tiny.write_expert(base, folder, task, shuffled=shuffled, seed=seed)
        return folder

    return make


@pytest.fixture(scope="session")
def _base_in_store(stack: Settings, base: Path) -> None:
    from infra.storage.store import S3Uri, connect_store

    store = connect_store(stack)
    for path in base.iterdir():
        store.upload(path, S3Uri("supermerge", "bases/tiny") / path.name)


_unused = iter(CALLED)


@pytest.fixture
def served_queue(stack: Settings, _base_in_store: None):  # type: ignore[no-untyped-def]
    """The queue of the family whose flows start by webhook."""
    from infra.queue import MergeQueue

    return MergeQueue.open(SERVED, stack)


@pytest.fixture
def queue(stack: Settings, _base_in_store: None):  # type: ignore[no-untyped-def]
    """The queue of a family that no other test uses, which promotes by itself."""
    from infra.queue import MergeQueue

    return MergeQueue.open(next(_unused), stack)


queue_twin = queue
"""A second one, for comparison."""


@pytest.fixture
def review_queue(stack: Settings, _base_in_store: None):  # type: ignore[no-untyped-def]
    """The same for a family whose candidates wait for a person."""
    from infra.queue import MergeQueue

    return MergeQueue.open(f"{next(_unused)}-review", stack)


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
