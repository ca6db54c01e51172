"""Commands that run the queue."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from infra.cli.output import connect, console, errors, step
from infra.registry.tags import Approval
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.queue import MergeQueue
    from infra.storage.promotions import Promotion

Family = Annotated[str, typer.Argument(help="Name of the family.")]
TEMPORARY_PREFECT = {
    "PREFECT_API_URL": "",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}
Reason = Annotated[str, typer.Option(help="Why, in words; recorded.")]


def demo(
    fresh: Annotated[bool, typer.Option("--fresh", help="Empty the demo's queue first.")] = False,
) -> None:
    """Shows the queue at work on real data: three experts promoted, a bad one bounced."""
    from infra.demo.run import run_demo

    run_demo(console, fresh=fresh)


def merge(family: Family) -> None:
    """Merges what is waiting, now and here, as the scheduled flow does."""
    connect()
    from flows.continual_merge import continual_merge

    outcomes = continual_merge(family)
    if not outcomes:
        console.print("No expert is waiting.")
    for outcome in outcomes:
        console.print(f"{', '.join(outcome.tasks)}: {outcome.verdict}. {escape(outcome.reason)}")


def promote(
    family: Family, version: Annotated[int, typer.Argument(help="MLflow version.")]
) -> None:
    """Carries out the review of a candidate: what a person decided on its page in MLflow."""
    connect()
    from flows.promote import promote as run

    _show_review(run(family, version))


def approve(
    family: Family,
    version: Annotated[int, typer.Argument(help="MLflow version of the candidate.")],
    reason: Reason = "",
) -> None:
    """Approves a candidate in your name and promotes it."""
    _review(family, version, "approved", reason)


def reject(
    family: Family,
    version: Annotated[int, typer.Argument(help="MLflow version of the candidate.")],
    reason: Reason = "",
) -> None:
    """Rejects a candidate in your name."""
    _review(family, version, "rejected", reason)


def rollback(
    family: Family,
    to: Annotated[int | None, typer.Option(help="Version to go back to.")] = None,
    reason: Reason = "",
) -> None:
    """Makes an earlier version the deployed model again; what it lacks is held.

    Without --to it goes away from what is deployed when you type it.
    """
    settings = connect()
    from infra.queue import MergeQueue

    present = MergeQueue.open(family).promotions.newest()
    away_from = present.sequence if present else None
    with some_prefect(settings):
        from flows.rollback import rollback as run

        entry = run(family, to, getpass.getuser(), reason, away_from)
    console.print(f"Version {entry.version} is deployed (promotion {entry.sequence}).")


def rebuild(family: Family) -> None:
    """Makes again what MLflow lost of a family: experts, versions, reports, tags and aliases."""
    with some_prefect(connect()):
        from flows.rebuild import rebuild as run

        made = run(family)
    for name in made:
        console.print(f"Made again: {name}")
    if not made:
        console.print(f"MLflow has all that there is of {family}.")


def freeze(family: Family, reason: Reason = "") -> None:
    """From now on nothing is promoted; candidates are still built."""
    connect()
    from infra.queue import MergeQueue
    from tasks.freeze import freeze as run

    queue = MergeQueue.open(family)
    entry = run(queue, getpass.getuser(), reason)
    _tell(queue, entry)
    console.print(f"{family} is frozen at version {entry.version} (entry {entry.sequence}).")


def thaw(family: Family, reason: Reason = "") -> None:
    """Ends a freeze; the next merge promotes what passed or was approved meanwhile."""
    connect()
    from infra.queue import MergeQueue
    from tasks.freeze import thaw as run

    queue = MergeQueue.open(family)
    entry = run(queue, getpass.getuser(), reason)
    _tell(queue, entry)
    console.print(f"{family} is thawed at version {entry.version} (entry {entry.sequence}).")


def audit(family: Family) -> None:
    """Checks that what is deployed is still what was decided."""
    connect()
    from flows.audit import audit as run

    for line in run(family) or ("Nothing is deployed yet.",):
        console.print(f"[green]✓[/green] {escape(line)}")


@contextmanager
def some_prefect(settings: Settings) -> Iterator[None]:
    """The Prefect server of the settings or, where it does not answer, a temporary one."""
    with tempfile.TemporaryDirectory() as home:
        if not prefect_answers(settings):
            step("Prefect does not answer; a temporary one is started for this command")
            os.environ |= TEMPORARY_PREFECT | {"PREFECT_HOME": home}
        yield


def prefect_answers(settings: Settings) -> bool:
    """Whether there is a Prefect server to record a flow run on."""
    import httpx

    from infra.tls import authorities

    address = f"{settings.prefect_api}/health"
    try:
        return not httpx.get(address, timeout=5, verify=authorities(address)).is_server_error
    except httpx.TransportError:
        return False


def _review(family: str, version: int, decision: Approval, reason: str) -> None:
    connect()
    from flows.promote import promote as run
    from infra.queue import MergeQueue

    registry = MergeQueue.open(family).registry
    registry.merged.review(
        registry.merged.get(family, version), decision, getpass.getuser(), reason
    )
    _show_review(run(family, version))


def _show_review(words: str) -> None:
    console.print(escape(words))
    if words.startswith("Refused"):
        raise typer.Exit(1)


def _tell(queue: MergeQueue, entry: Promotion) -> None:
    from tasks.notify import told_of_log

    for target, fault in told_of_log(queue, entry, entry.sequence - 1):
        errors.print(escape(f"The notification to {target} failed: {fault}."))
