"""`supermerge doctor`: is everything there, and if not, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from infra.cli.output import console, table
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.doctor import Finding

COLOURS = {"ok": "green", "worth knowing": "yellow", "fault": "red"}


def doctor(
    family: Annotated[
        str | None, typer.Argument(help="Name of a family; all of them by default.")
    ] = None,
) -> None:
    """Looks at every server, right, clock, disk and variable that the queue needs.

    Exit status 1 where something is at fault. It writes a few bytes to the object store and removes them.
    """
    from infra.doctor import examine

    settings = Settings.load()
    with console.status("Looking at everything"):
        findings = list(examine(settings, None if family is None else [family]))
    show(findings)


def show(findings: Iterable[Finding]) -> None:
    """Prints what was found as a table.

    Raises:
        typer.Exit: Something is at fault.
    """
    shown = table("Doctor", "Check", "Result", "Found", "What to do")
    faults = 0
    for finding in findings:
        colour = COLOURS[finding.verdict]
        faults += finding.verdict == "fault"
        result = f"[{colour}]{finding.verdict}[/{colour}]"
        words = (finding.check, result, escape(finding.found), escape(finding.remedy))
        shown.add_row(escape(words[0]), *words[1:])
    console.print(shown)
    if faults:
        console.print(f"[red]{faults} fault{'s' if faults > 1 else ''}.[/red]")
        raise typer.Exit(1)
