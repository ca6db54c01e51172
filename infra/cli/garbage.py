"""The command that removes what nothing needs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from infra.cli.output import connect, console
from infra.cli.queue import Family


def gc(
    family: Family,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look.")] = False,
    days: Annotated[
        int | None,
        typer.Option(
            min=0, help="Days to keep it from when it was first seen; default: keep_days."
        ),
    ] = None,
) -> None:
    """Removes from the object store what nothing has needed for some days."""
    connect()
    from datetime import UTC, datetime

    from flows.gc import gc as run

    garbage = run(family, dry_run=dry_run, days=days)
    if not garbage:
        console.print(f"Everything that is stored of {family} is needed.")
        return
    now = datetime.now(UTC)
    for item in garbage:
        what = item.unneeded
        goes = "by the next `supermerge gc`"
        if item.goes > now:
            goes = f"from {item.goes:%Y-%m-%d %H:%M} UTC on"
        fate = "Removed" if item.removed else f"Is removed {goes}"
        console.print(escape(f"{what.path} ({what.size / 1e6:.1f} MB), {what.why}. {fate}."))
