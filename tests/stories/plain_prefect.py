"""Flows and tasks as the plain functions that they are: no server, no engine, no waiting.

What a flow run needs of Prefect is here in a few lines: its id, its log, its turn in the family's line,
artifacts, and tasks that are tried again. tests/e2e runs the same flows with Prefect itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

import prefect.artifacts
import prefect.concurrency.sync
from prefect import Flow, Task
from prefect.client.schemas import FlowRun
from prefect.context import FlowRunContext

import infra.flowrun

RUN_ID = UUID(int=1)
Say = Callable[[str], None]


@contextmanager
def plain_prefect(say: Say, before: Say, turns: list[str], pages: dict[str, Any]) -> Iterator[None]:
    """Runs flows and tasks right here.

    Args:
        say: Is told what stands in the log and on the page of the flow run.
        before: Is told the name of each task before it runs.
        turns: Gets the name of each turn in a line that a flow takes.
        pages: Gets what each artifact shows, by its key.
    """
    held: set[str] = set()

    def run_flow(flow: Flow, *args: Any, **more: Any) -> Any:
        run = FlowRun.model_construct(id=RUN_ID, name=flow.name, deployment_id=None)
        with FlowRunContext.model_construct(flow=flow, flow_run=run):
            return flow.fn(*args, **more)

    def run_task(task: Task, *args: Any, **more: Any) -> Any:
        before(task.name)
        for _ in range(task.retries):
            try:
                return task.fn(*args, **more)
            except Exception as error:
                if task.retry_condition_fn and not task.retry_condition_fn(
                    task, None, SimpleNamespace(result=_raising(error))
                ):
                    raise
                say(f"{task.name} is tried again: {error}")
        return task.fn(*args, **more)

    @contextmanager
    def turn(name: str, **_: Any) -> Iterator[None]:
        assert name not in held, f"{name} would wait for itself"
        held.add(name)
        turns.append(name)
        try:
            yield
        finally:
            held.discard(name)

    def keep(artifact: prefect.artifacts.Artifact) -> SimpleNamespace:
        pages[artifact.key] = artifact.format(_sync=True)
        say(f"Prefect shows {artifact.key}")
        return SimpleNamespace(id=None)

    with (
        mock.patch.object(Flow, "__call__", run_flow),
        mock.patch.object(Task, "__call__", run_task),
        mock.patch.object(infra.flowrun, "concurrency", turn),
        mock.patch.object(prefect.artifacts.Artifact, "create", lambda self, **_: keep(self)),
        _log_of_runs(say),
    ):
        yield


def _raising(error: Exception) -> Callable[[], None]:
    def result() -> None:
        raise error

    return result


@contextmanager
def _log_of_runs(say: Say) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"log: {record.getMessage()}")

    logger = logging.getLogger("prefect.flow_runs")
    with mock.patch.multiple(logger, handlers=[Handler()], propagate=False, level=logging.INFO):
        yield
