"""`supermerge up` and `supermerge down`: the embedded stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.output import console, table
from infra.stack import PartStatus, stack_status, start_stack, stop_stack
from infra.stack.stack import DEFAULT_STATE_DIR

StateDir = Annotated[
    Path,
    typer.Option(envvar="SUPERMERGE_STATE_DIR", help="Where data, logs and secrets are kept."),
]


def up(
    state_dir: StateDir = DEFAULT_STATE_DIR,
    first_port: Annotated[
        int, typer.Option(help="Where to look for free ports the first time; then they are kept.")
    ] = 18300,
    mlflow_auth: Annotated[
        bool | None,
        typer.Option(
            "--mlflow-auth/--no-mlflow-auth",
            help="Whether MLflow asks for a name and a password. Kept until you change it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Starts the servers (S3, MLflow, Prefect, worker, receiver), or repairs what is not up."""
    with console.status("Starting the stack") as status:
        start_stack(
            state_dir,
            first_port=first_port,
            mlflow_auth=mlflow_auth,
            report=status.update,
        )
    _print_parts(stack_status(state_dir))
    console.print(f"Logs and secrets are in {state_dir}. `supermerge down` stops everything.")


def down(state_dir: StateDir = DEFAULT_STATE_DIR) -> None:
    """Stops all servers; data, ports and secrets stay for the next `up`."""
    with console.status("Stopping the stack") as status:
        stop_stack(state_dir, report=status.update)
    console.print("The stack is down. Its data stays; `supermerge up` goes on where it was.")


def _print_parts(parts: list[PartStatus]) -> None:
    shown = table("Embedded stack", "part", "address", "state", "process", "log")
    for part in parts:
        state = "[green]up[/]" if part.up else "[red]down[/]"
        shown.add_row(part.title, part.address, state, str(part.pid or "–"), part.log.name)
    console.print(shown)
