"""The queue's promises, against the real embedded stack with tiny real models."""

from __future__ import annotations

import time

import httpx
import pandas as pd
import pytest

from infra.events.metrics import Metrics
from tests.e2e import tiny
from tests.e2e.leaks import find, secrets_of

pytestmark = pytest.mark.e2e


def wait_until_settled(queue, expert, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = queue.registry.experts.get(expert.name, expert.version)
        if found.status in ("merged", "rejected", "held"):
            return found
        time.sleep(0.2)
    pytest.fail(f"{expert.ref} is still {found.status}: {found.reason}")


def wait_until_counted(metrics, run, seconds=60):
    """Flow and task runs reach Prefect's database a while after they have ended."""
    deadline = time.monotonic() + seconds
    while run not in metrics.look().decode():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def ask(queue, task):
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(f"models:/{queue.name}@champion")
    texts = ["bada rain storm kibo", "bada sun warm kibo"]
    return [answer["scores"] for answer in model.predict({"task": task, "inputs": texts})]


def test_an_expert_registered_through_mlflow_alone_is_promoted_and_leaves_no_secret_anywhere(
    stack, new_queue, serve, expert, land
):
    queue, token = new_queue(served=True), "of-a-chat-9f3a51c07e"
    with (stack.families_dir / f"{queue.name}.yaml").open("a") as file:
        file.write(f"notify: [{{webhook: 'http://127.0.0.1:9/hooks/{token}'}}]\n")
    with serve(queue):
        is_promoted(queue, expert, land)
    found = find(stack, {**secrets_of(stack), "address": token, "known": queue.name})
    places = "\n".join(found.pop("known"))
    assert not any(found.values()), found
    for place in (
        "mlflow.db, dumped",
        "prefect.db, dumped",
        "worker.log",
        "s3://supermerge/_mlflow/",
    ):
        assert place in places


def is_promoted(queue, expert, land):
    metrics = Metrics(queue.settings)
    landed = land(queue, "weather", expert("weather"))

    settled = wait_until_settled(queue, landed)

    assert settled.status == "merged", settled.reason
    newest = queue.promotions.newest()
    assert (newest.sequence, newest.action) == (1, "promote")
    assert queue.registry.merged.aliases(queue.name) == {"champion": newest.version}
    wet, dry = ask(queue, "weather")
    assert wet["side-0"] > 0.5 > dry["side-0"]
    run = f'family="{queue.name}",flow="continual-merge"'
    wait_until_counted(metrics, f'supermerge_runs_total{{{run},state="completed"}} 1.0')
    seen = metrics.text().decode()
    assert f'supermerge_step_seconds_count{{{run},step="learn"}} 1.0' in seen
    assert f'supermerge_experts{{family="{queue.name}",status="merged"}} 1.0' in seen
    receiver = httpx.get(f"{queue.settings.receiver_url}/metrics").text
    assert f'supermerge_readable{{family="{queue.name}",part="log"}} 1.0' in receiver
    assert 'supermerge_deliveries_total{outcome="taken"}' in receiver
    assert httpx.get(f"{queue.settings.receiver_url}/readyz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("kind", "write"),
    [("image-classifier", tiny.write_image_classifier), ("generator", tiny.write_generator)],
)
def test_experts_of_the_other_kinds_are_promoted_and_answer(kind, write, new_queue, land, tmp_path):
    import mlflow.pyfunc

    from flows.continual_merge import continual_merge
    from tasks.upload import upload_base

    write(tmp_path / "base", tmp_path / "expert")
    queue = new_queue(kind=kind)
    upload_base(queue, tmp_path / "base")
    land(queue, "task", tmp_path / "expert")
    (promoted,) = continual_merge(queue.name)

    assert promoted.verdict == "promoted", promoted.reason
    table = pd.read_parquet(tmp_path / "expert/examples.parquet")
    model = mlflow.pyfunc.load_model(f"models:/{queue.name}@champion")
    inputs = table[queue.family.kind.input_column].tolist()
    answers = [
        a.get("text", a.get("label")) for a in model.predict({"task": "task", "inputs": inputs})
    ]
    targets = table[queue.family.kind.target_column]
    expected = targets if kind == "generator" else targets.map({0: "below", 1: "above"})
    assert sum(a == b for a, b in zip(answers, expected, strict=True)) > len(table) / 2
