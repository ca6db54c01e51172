"""`supermerge up` and `supermerge down`: the embedded stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from infra.cli.doctor import show
from infra.cli.output import connect, console, table
from infra.state_file import state_file

if TYPE_CHECKING:
    from infra.stack import PartStatus


def up(
    first_port: Annotated[
        int | None,
        typer.Option(
            help="Where to look for free ports the first time; then they are kept.",
            show_default="18300",
        ),
    ] = None,
    mlflow_auth: Annotated[
        bool | None,
        typer.Option(
            "--mlflow-auth/--no-mlflow-auth",
            help="Whether MLflow asks for a name and a password. Kept until you change it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Starts the servers (S3, MLflow, Prefect, worker, receiver), or repairs what is not up.

    Then it looks at everything as `supermerge doctor` does; exit status 1 where something is at fault.
    """
    from infra.doctor import examine
    from infra.stack import stack_status, start_stack

    with console.status("Starting the stack"):
        settings = start_stack(first_port=first_port, mlflow_auth=mlflow_auth, report=_tell)
    _print_parts(stack_status())
    facts = escape(str(state_file(settings.state_dir)))
    if settings.mlflow_username:
        console.print(
            f"MLflow asks for a name, {escape(repr(settings.mlflow_username))}, and a password: "
            f"mlflow_password in {facts}."
        )
    console.print(f"Secrets are in {facts}, logs beside it. `supermerge down` stops everything.")
    with console.status("Looking at everything"):
        findings = [f for f in examine(settings) if f.verdict != "ok"]
    if findings:
        show(findings)


def down() -> None:
    """Stops all servers; data, ports and secrets stay for the next `up`."""
    from infra.stack import stop_stack

    with console.status("Stopping the stack") as status:
        stop_stack(report=status.update)
    console.print("The stack is down. Its data stays; `supermerge up` goes on where it was.")


def deploy(
    families: Annotated[
        list[str] | None, typer.Argument(help="Some families; default: all.")
    ] = None,
) -> None:
    """Gives each family file its deployments, schedules and triggers in Prefect; `up` does so too."""
    from infra.stack.deployments import deploy_families, families_deployed
    from infra.stack.orchestration import prepare_prefect

    settings = connect()
    prepare_prefect(settings)
    for family, done in deploy_families(settings, families):
        console.print(f"{family}: {escape(done)}")
    if gone := sorted(families_deployed(settings) - set(settings.family_names())):
        console.print(
            f"Without a file here, but in Prefect: {', '.join(gone)}. To end their schedules: "
            "`prefect deployment delete continual-merge/FAMILY`, and the same for promote, rollback "
            "and audit."
        )


def _tell(words: str) -> None:
    console.print(f"[dim]{escape(words)}[/dim]")


def _print_parts(parts: list[PartStatus]) -> None:
    shown = table("Embedded stack", "part", "address", "state", "process", "log")
    for part in parts:
        state = "[green]up[/]" if part.up else "[red]down[/]"
        shown.add_row(part.title, part.address, state, str(part.pid or "–"), part.log.name)
    console.print(shown)
