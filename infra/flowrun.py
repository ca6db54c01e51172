"""The Prefect flow run that is under way: its id, and its turn in the family's line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run

from infra.names import limit_name

_LEASE = 60  # Seconds that a killed run keeps the others waiting at most.


def run_id() -> str:
    """The id of the flow run, or ``local`` outside of one."""
    return str(flow_run.id or "local")


@contextmanager
def one_at_a_time(family: str) -> Iterator[None]:
    """Waits until no other run of this family is under way.

    It only saves work: should two runs be under way all the same, the conditional create of the
    promotion log decides between them.
    """
    with concurrency(limit_name(family), occupy=1, strict=True, lease_duration=_LEASE):
        yield
