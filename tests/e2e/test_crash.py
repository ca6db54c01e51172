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
def test_a_run_that_waits_for_its_turn_is_no_process_and_one_that_is_killed_gives_it_up(
    stack, served_queue
):
    from infra.flowrun import one_at_a_time
    from infra.stack import stack_status

    (warm,) = [part.pid for part in stack_status(stack.state_dir) if part.title == "Warm parent"]
    with (
        httpx.Client(base_url=stack.prefect_api, timeout=60) as prefect,
        one_at_a_time(served_queue.name),  # so that the run stays until it is killed
    ):

        def start(flow: str) -> str:
            deployment = f"/deployments/name/{flow}/{served_queue.name}"
            made = f"/deployments/{prefect.get(deployment).json()['id']}/create_flow_run"
            answer = prefect.post(made, json={"state": {"type": "SCHEDULED"}})
            while answer.is_server_error:  # SQLite may be locked for a moment.
                answer = prefect.post(made, json={"state": {"type": "SCHEDULED"}})
            return answer.json()["id"]

        def state(run: str) -> str:
            return prefect.get(f"/flow_runs/{run}").json()["state_type"]

        def wait_for(run: str, *wanted: str) -> None:
            deadline = time.monotonic() + 240
            while (now := state(run)) not in wanted:
                assert time.monotonic() < deadline, f"the run is {now}, not {wanted}"
                time.sleep(0.5)

        merge = start("continual-merge")
        wait_for(merge, "RUNNING")
        waiting = start("continual-merge")
        wait_for(
            start("rollback"), "FAILED"
        )  # There is nothing to go back to, but it had its turn.
        assert (state(merge), state(waiting)) == ("RUNNING", "SCHEDULED")

        for keeper in psutil.Process(warm).children():
            for job in keeper.children():
                job.kill()
        wait_for(merge, "CRASHED")
        wait_for(waiting, "RUNNING")
    with httpx.Client(base_url=stack.prefect_api, timeout=60) as prefect:
        wait_for(waiting, "COMPLETED")
