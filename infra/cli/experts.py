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

Wanted = Annotated[str, typer.Option(help="Why it is wanted though it may look worse.")]
Priority = Annotated[int, typer.Option(help="A higher one is merged first, by itself.")]
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
    wanted: Wanted = "",
    priority: Priority = 0,
) -> None:
    """Checks an expert, uploads it and registers it; the queue takes it from there.

    With --wanted a person decides where it looks worse than what is deployed of its task.
    """
    connect()
    step(f"Loading what checks {directory}")
    from infra.queue import MergeQueue
    from tasks.upload import register_expert

    queue = MergeQueue.open(family)
    wishes: dict[str, object] = {"priority": priority or None, **_wish(wanted)}
    with findings_shown(str(directory)) as told:
        expert = register_expert(
            queue, task, directory, examples, report=step, told=told, wishes=wishes
        )
    console.print(f"{expert.ref} is {expert.status}. {escape(expert.reason)}")


def release(expert: Expert, wanted: Wanted = "") -> None:
    """Puts a held, rejected or withdrawn expert back into the queue.

    With --wanted a person decides where it looks worse than what is deployed of its task.
    """
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
    queue_.registry.experts.release(version, **_wish(wanted))
    console.print(f"{version.ref} is waiting again; the next merge takes it.")


def rename(expert: Expert, task: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Gives an expert's task another name; a deployed one takes its own place in the next merge."""
    queue_, version = _open(expert)
    from tasks.upload import rename as run

    renamed = run(queue_, version, task, getpass.getuser())
    console.print(f"{renamed.ref} is {renamed.status}; it takes the place of {version.ref}.")


def prioritise(
    expert: Expert,
    priority: Annotated[int, typer.Argument(help="A higher one is merged first, by itself.")],
) -> None:
    """Says how urgent an expert is; without a word it is 0."""
    queue_, version = _open(expert)
    queue_.registry.experts.prioritise(version, priority)
    console.print(f"{version.ref} has priority {priority}.")


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


def _wish(wanted: str) -> dict[str, object]:
    return {"wanted": wanted, "wanted_by": getpass.getuser()} if wanted else {}


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
