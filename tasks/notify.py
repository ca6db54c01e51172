"""Telling people what has happened, and what they have to do."""

from __future__ import annotations

from prefect import get_run_logger, task

from infra.families import Family
from infra.notify import Notice, send
from tasks.retry import SIDE_EFFECT


@task(**{**SIDE_EFFECT, "retries": 0})
def notify(family: Family, notice: Notice) -> None:
    """Sends a notice to every target of the family; a target that fails never blocks the flow."""
    for target, fault in send(family, notice):
        get_run_logger().warning("notification to %s failed: %s", target, fault)
