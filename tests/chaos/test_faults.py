"""Whatever S3 and MLflow answer: a merge recovers, or fails in words and recovers afterwards.

Real servers behind mitmproxy, which `make chaos` installs into a virtual environment of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
import yaml

from infra.faults import in_words
from infra.queue import MergeQueue
from infra.settings import Settings
from infra.storage.store import S3Uri, connect_store
from merging.errors import MergeQueueError
from merging.experts.expert import ExpertFiles, read_head
from merging.kinds import ModelKind
from tests.chaos import invariants
from tests.chaos.faulty import MITMDUMP, OPEN, Fault, Proxy, check, queue_behind
from tests.stories.conftest import World
from tests.stories.given import GivenEngine

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.e2e,
    pytest.mark.skipif(not MITMDUMP.exists(), reason="`make chaos` installs mitmproxy"),
]

ALWAYS = 100_000
S3_FAULTS = [
    *(
        Fault("GET .*model.safetensors", "before", status)
        for status in ("403", "404", "429", "500")
    ),
    *(Fault("PUT .*/merged/", "before", status) for status in ("403", "409", "412", "500", "503")),
    Fault("PUT .*/promotions/", "before", "503", times=2),
    Fault("PUT .*/promotions/", "before", "409"),
    Fault("PUT .*/promotions/", "after", "reset"),
    Fault("PUT .*/promotions/", "after", "500"),
    Fault("PUT .*/attempts/", "after", "reset"),
    Fault("GET .*safetensors", "after", "wrong"),
    Fault("GET .*safetensors", "after", "wrong", times=ALWAYS),
    Fault("GET .*manifest.json", "after", "wrong"),
    Fault("GET .*jsonl", "after", "short"),
    Fault("GET ", "after", "reset", times=3),
    Fault("GET ", "before", "late", times=3, seconds=3),
    Fault("", "before", "503", times=ALWAYS),
    Fault("", "before", "403", times=ALWAYS),
]
MLFLOW_FAULTS = [
    *(Fault("model-versions/search", "before", status) for status in ("401", "404", "429", "503")),
    Fault("model-versions/create", "after", "reset"),
    Fault("model-versions/create", "before", "500"),
    Fault("set-tag", "after", "500"),
    Fault("set-tag", "before", "reset", times=3),
    Fault("alias", "before", "503", times=ALWAYS),
    Fault("runs/create", "after", "reset"),
    Fault("log-batch", "before", "500"),
    Fault("mlflow-artifacts", "before", "500", times=2),
    Fault("model-versions/search", "after", "short"),
    Fault("", "before", "503", times=ALWAYS),
    Fault("", "before", "reset", times=ALWAYS),
]


@pytest.fixture(scope="module")
def proxies(_servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Proxy]]:
    folder = tmp_path_factory.mktemp("proxies")
    made = [
        Proxy(_servers.s3_endpoint, folder / "s3"),
        Proxy(_servers.mlflow_uri, folder / "mlflow"),
    ]
    yield made
    for proxy in made:
        proxy.end()


@pytest.fixture
def family(stack: Settings, world: World) -> str:
    """A family of tiny models."""
    name = f"faults-{uuid4().hex[:8]}"
    store, base = connect_store(stack), S3Uri("supermerge", "bases/faults")
    for path in world.base.iterdir():
        store.upload(path, base / path.name)
    file = {"name": name, "kind": "text-classifier", "base": str(base), "bucket": "supermerge"}
    file |= {"device": "cpu", "merge": {"granularity": "tensor"}, "gate": {"margin": 0.05}}
    (stack.families_dir / f"{name}.yaml").write_text(yaml.safe_dump(file))
    return name


def land(queue: MergeQueue, world: World, given: GivenEngine, task: str) -> None:
    folder = world.expert(task, 0, 400)
    given.experts[read_head(task, ExpertFiles(folder), ModelKind.TEXT_CLASSIFIER).digest] = 90
    source = S3Uri("supermerge", f"uploads/{queue.name}/{task}")
    for path in folder.iterdir():
        queue.store.upload(path, source / path.name)
    queue.registry.experts.register(queue.name, task, source, "")


@pytest.mark.parametrize(
    ("server", "fault"),
    [("S3", fault) for fault in S3_FAULTS] + [("MLflow", fault) for fault in MLFLOW_FAULTS],
    ids=lambda value: str(value),
)
def test_a_merge_through_a_fault_recovers_or_fails_in_words(
    server, fault, stack, proxies, family, world, table
):
    from flows.continual_merge import continual_merge

    proxy = proxies[server == "MLflow"]
    queue, given, log = OPEN(family, stack), GivenEngine(), invariants.Log()
    began = time.monotonic()
    with queue_behind(stack, *proxies, given):
        land(queue, world, given, "weather")
        continual_merge(family)
        check(queue, log)
        land(queue, world, given, "food")
        proxy.spoil(fault)
        outcome = "gone around"
        try:
            with in_words():
                continual_merge(family)
        except MergeQueueError as error:
            outcome = f"failed in words: {str(error)[:90]}"
        finally:
            proxy.spoil(None)
        check(queue, log)
        for expert in queue.registry.experts.of(family):
            if expert.status in ("held", "rejected"):
                outcome = f"{expert.status}: {expert.reason[:90]}"
                queue.registry.experts.release(expert)
        continual_merge(family)
        check(queue, log)
    assert not (faults := list(invariants.mirror_faults(queue))), faults
    assert {record.task for record in invariants.deployed_experts(queue)} == {"weather", "food"}
    assert len(queue.promotions.entries()) == 2
    table(f"{server}: {fault}", 1, f"{outcome}; then merged, in {time.monotonic() - began:.0f} s")
