"""Commands about experts and their base."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from infra.cli.checking import findings_shown
from infra.cli.output import connect, console, step
from infra.cli.queue import Family, Reason
from infra.errors import Refused
from merging.errors import InvalidInput

Expert = Annotated[str, typer.Argument(help="NAME/VERSION, as `supermerge status` shows it.")]


def upload_base(
    family: Family,
    directory: Annotated[Path, typer.Argument(help="Folder of the base checkpoint.")],
) -> None:
    """Uploads the base checkpoint of a family to where its file says."""
    connect()
    step(f"Loading what checks {directory}")
    from infra.queue import MergeQueue
    from tasks.upload import upload_base as upload

    queue = MergeQueue.open(family)
    upload(queue, directory, report=step)
    console.print(f"{directory} is at {queue.family.base}.")


def register(
    family: Family,
    task: Annotated[str, typer.Argument(help="Name of the ML task.")],
    directory: Annotated[
        Path,
        typer.Argument(help="Folder with the checkpoint and examples.parquet, .jsonl or .csv."),
    ],
    examples: Annotated[
        Path | None, typer.Option(help="The examples table, if it is not in the folder.")
    ] = None,
) -> None:
    """Checks an expert, uploads it and registers it; the queue takes it from there."""
    connect()
    step(f"Loading what checks {directory}")
    from infra.queue import MergeQueue
    from tasks.upload import register_expert

    queue = MergeQueue.open(family)
    with findings_shown(str(directory)) as told:
        expert = register_expert(queue, task, directory, examples, report=step, told=told)
    console.print(f"{expert.ref} is {expert.status}. {escape(expert.reason)}")


def release(expert: Expert) -> None:
    """Puts a held, rejected or withdrawn expert back into the queue."""
    queue_, version = _open(expert)
    if version.status == "merged" and version.tags.is_withdrawn:
        queue_.registry.experts.keep(version, "The request to take it out was taken back.")
        console.print(f"{version.ref} stays.")
        return
    if version.status in ("waiting", "merging", "merged"):
        raise Refused(
            f"{version.ref} is {version.status}; only a held, rejected or withdrawn one "
            "can be released.",
            "`supermerge status` shows what waits.",
        )
    queue_.registry.experts.release(version)
    console.print(f"{version.ref} is waiting again; the next merge takes it.")


def withdraw(expert: Expert, reason: Reason = "") -> None:
    """Takes an expert out of the line, or leads to a candidate without it where it is deployed."""
    queue_, version = _open(expert)
    after = queue_.registry.experts.withdraw(version, getpass.getuser(), reason)
    if after.status == "merged":
        console.print(
            f"{after.ref} is deployed; the next merge builds a candidate without it, which has to "
            "pass on the tasks that stay."
        )
    else:
        console.print(f"{after.ref} is withdrawn.")


def explain(expert: Expert) -> None:
    """Why an expert is where it is: its status, the gate's reasons, and where its report is."""
    _, version = _open(expert)
    console.print(f"[bold]{version.ref}[/bold] ({version.task}): {version.status}")
    console.print(escape(version.reason) or "Nothing has been decided yet.")
    if version.tags.report:
        console.print(f"Report: {version.tags.report}")


def _open(expert: str):  # type: ignore[no-untyped-def]
    settings = connect()
    from infra.names import check_family
    from infra.queue import MergeQueue
    from infra.registry.registry import Registry

    name, _, number = expert.rpartition("/")
    if not name or not number.isdigit():
        raise InvalidInput(
            where="expert",
            expected="NAME/VERSION",
            found=repr(expert),
            remedy="`supermerge status FAMILY` lists them.",
        )
    registry = Registry.connect(settings)
    version = registry.experts.get(name, int(number))
    return MergeQueue.open(check_family(version.tags.family)), version
