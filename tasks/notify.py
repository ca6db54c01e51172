"""Telling people: candidate needs review, promoted, bounced, rolled back, audit failed."""

from __future__ import annotations

from prefect import get_run_logger, task

from infra.notify import Notice, send
from infra.queue import MergeQueue
from tasks.retry import SIDE_EFFECT


@task(**{**SIDE_EFFECT, "retries": 0})
def notify(queue: MergeQueue, notice: Notice) -> None:
    """Sends a notice to every target of the family; a target that fails never blocks the flow."""
    for target, fault in send(queue.family, notice):
        get_run_logger().warning("notification to %s failed: %s", target, fault)
