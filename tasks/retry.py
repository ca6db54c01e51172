"""When a task is tried again: after faults that pass by themselves, and after no others."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE

from infra.errors import PASSING, Barred, Unavailable
from merging.errors import MergeQueueError


def passes_by_itself(_task: Any, _run: Any, state: Any) -> bool:
    """True where the run failed by a fault that passes; Prefect asks this before each retry."""
    try:
        state.result()
    except Exception as error:  # noqa: BLE001 - asked for by Prefect; nothing is swallowed here
        return is_transient(error) and not isinstance(error, Barred)
    return False


def is_transient(error: Exception) -> bool:
    """True for a fault of a server or the network, false for what will be the same next time."""
    if isinstance(error, MergeQueueError):
        return isinstance(error, Unavailable)
    if (status := _status(error)) is not None:
        return status >= 500 or status in PASSING
    servers = ("botocore", "mlflow", "httpx", "requests", "urllib3", "prefect")
    broken = isinstance(error, ConnectionError | TimeoutError)
    return broken or type(error).__module__.startswith(servers)


def _status(error: Any) -> int | None:
    """The HTTP status that a server answered with, where the error tells one."""
    if hasattr(error, "get_http_status_code"):  # MLflow's
        return int(error.get_http_status_code())
    return getattr(getattr(error, "response", None), "status_code", None)


SIDE_EFFECT: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [1, 5, 20],
    "retry_condition_fn": passes_by_itself,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
"""Arguments of ``@task`` for everything that talks to a server."""
