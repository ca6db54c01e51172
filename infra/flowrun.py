"""The Prefect flow run that is under way: its id, and its turn in the family's line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
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
    promotion log decides between them. So a run that has its turn goes on while Prefect is away.
    """
    name = limit_name(family)
    try:
        turn = _take_turn(name)
    except ConcurrencySlotAcquisitionError:
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name(name, 1)
        turn = _take_turn(name)
    try:
        yield
    finally:
        try:
            turn.__exit__(None, None, None)
        except httpx.HTTPError as error:
            logging.getLogger(__name__).warning("the turn ends when its lease does: %s", error)


def _take_turn(name: str) -> AbstractContextManager[None]:
    turn = concurrency(
        name, occupy=1, strict=True, lease_duration=_LEASE, raise_on_lease_renewal_failure=False
    )
    turn.__enter__()
    return turn
