"""A run may be killed between any two steps: the next one goes on and the result is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from infra.storage.manifest import Manifest
from infra.storage.store import S3Uri

pytestmark = pytest.mark.e2e

# In the order of the flow: where it dies just before the step is done.
STEPS = (
    "flows.ladder.write_model",
    "flows.ladder.score_build",
    "flows.ladder.package_candidate",
    "flows.ladder.record_attempt",
    "flows.delivery.register_candidate",
    "flows.delivery.check_health",
    "flows.delivery.commit",
    "flows.delivery.repair_mirror",
)


class Killed(BaseException):
    """Not an Exception, so nothing in the flow can handle it."""


def model_files(queue):
    """What the deployed model consists of, without the pages about it."""
    newest = queue.promotions.newest()
    manifest = Manifest.read(queue.store, S3Uri.parse(newest.location), newest.manifest_sha256)
    kept = ("model/", "heads/", "coefficients")
    return {path: sha for path, sha in manifest.files.items() if path.startswith(kept)}


def test_a_run_killed_before_every_step_ends_like_one_that_was_not(
    queue, queue_twin, expert, land, monkeypatch
):
    from flows.continual_merge import continual_merge

    landed = land(queue, "weather", expert("weather"))
    for step in STEPS:

        def die(*_args, step=step, **_more):
            raise Killed(step)

        with monkeypatch.context() as patch:
            patch.setattr(step, die)
            with pytest.raises(Killed):
                continual_merge(queue.name)
    after = continual_merge(queue.name)

    assert after == (), "the last step before the kill was the commit; the rest is repaired"
    assert [entry.action for entry in queue.promotions.entries()] == ["promote"]
    assert len(queue.registry.merged.of(queue.name)) == 1
    assert queue.registry.merged.aliases(queue.name) == {"champion": 1}
    assert queue.registry.experts.get(landed.name, landed.version).status == "merged"

    land(queue_twin, "weather", expert("weather"))
    continual_merge(queue_twin.name)
    assert model_files(queue) == model_files(queue_twin)


def test_after_a_kill_of_the_whole_process_the_next_one_goes_on(queue, expert, land):
    from flows.continual_merge import continual_merge

    land(queue, "weather", expert("weather"))
    script = f"""
import os, signal
import flows.ladder
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
flows.ladder.write_model = die
from flows.continual_merge import continual_merge
continual_merge({queue.name!r})
"""
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert queue.promotions.newest() is None

    (outcome,) = continual_merge(queue.name)

    assert outcome.verdict == "promoted", outcome.reason
    assert queue.promotions.newest().sequence == 1


def test_a_run_of_the_worker_that_is_killed_counts_as_crashed(stack, served_queue):
    from infra.flowrun import one_at_a_time
    from infra.stack import stack_status

    (warm,) = [part.pid for part in stack_status(stack.state_dir) if part.title == "Warm parent"]
    with (
        httpx.Client(base_url=stack.prefect_api, timeout=60) as prefect,
        one_at_a_time(served_queue.name),  # so that the run waits for its turn until it is killed
    ):
        flow = prefect.get("/deployments/name/continual-merge/continual-merge").json()["id"]
        wanted = {"parameters": {"family": served_queue.name}}
        run = prefect.post(f"/deployments/{flow}/create_flow_run", json=wanted).json()["id"]

        def wait_for(state: str) -> None:
            deadline = time.monotonic() + 240
            while (now := prefect.get(f"/flow_runs/{run}").json()["state_type"]) != state:
                assert time.monotonic() < deadline, f"the run is {now}, not {state}"
                time.sleep(0.5)

        wait_for("RUNNING")
        for keeper in psutil.Process(warm).children():
            for job in keeper.children():
                job.kill()
        wait_for("CRASHED")
