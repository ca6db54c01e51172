"""A process may be killed with kill -9: the next one goes on. (Killed at any task: tests/stories.)"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

pytestmark = pytest.mark.e2e


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


@pytest.mark.alone
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
