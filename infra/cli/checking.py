"""Would this expert be merged? What `check` and `register` show of a folder before anything happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from infra.cli.output import connect, console, step, table
from infra.cli.queue import Family
from infra.settings import families_dir
from merging.errors import MergeQueueError

if TYPE_CHECKING:
    from tasks.inspection import Finding

COLOURS = {"ok": "green", "worth knowing": "yellow", "refused": "red"}


def check(
    family: Family,
    directory: Annotated[Path, typer.Argument(help="Folder of the expert.")],
    task: Annotated[
        str | None, typer.Option(help="Name of the ML task; the folder's name by default.")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="The examples table, if it is not in the folder.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the base checkpoint; the family's by default, from its bucket."
        ),
    ] = None,
) -> None:
    """Says whether an expert would be taken; uploads and registers nothing.

    With --base no server is needed, only the family's file.
    """
    step(f"Loading what checks {directory}")
    name = task or directory.resolve().name
    if base is None:
        connect()
        from infra.queue import MergeQueue
        from tasks.pull import fetch_base

        queue = MergeQueue.open(family)
        step(f"Fetching the base {queue.family.base}")
        definition, opened = queue.family, fetch_base(queue)
    else:
        from infra.families import load_family
        from tasks.pull import local_base

        definition = load_family(family, families_dir())
        opened = local_base(base, definition.kind)
    from tasks.preflight import open_checked

    with findings_shown(str(directory)) as told:
        open_checked(
            definition, opened, name, directory, str(directory), told=told, examples=examples
        )
    console.print(
        f"{escape(str(directory))} can be merged. `supermerge register {family} {escape(name)} "
        f"{escape(str(directory))}` gives it to the queue; whether it is any good the gate finds out."
    )


@contextmanager
def findings_shown(title: str) -> Iterator[Callable[[Finding], None]]:
    """Collects what an inspection finds and shows it as a table, also where it is refused.

    Raises:
        typer.Exit: Something was refused; the table says why.
    """
    findings: list[Finding] = []
    try:
        yield findings.append
    except MergeQueueError as error:
        if not any(finding.verdict == "refused" for finding in findings):
            raise
        raise typer.Exit(1) from error
    finally:
        if findings:
            _show(title, findings)


def _show(title: str, findings: list[Finding]) -> None:
    shown = table(escape(title), "Check", "Result", "Why", "Seconds")
    for finding in findings:
        colour = COLOURS[finding.verdict]
        why = "\n".join(escape(sentence) for sentence in finding.sentences)
        seconds = f"{finding.seconds:.1f}"
        shown.add_row(finding.check, f"[{colour}]{finding.verdict}[/{colour}]", why, seconds)
    console.print(shown)
