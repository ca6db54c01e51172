"""What commands share: the console, and errors shown as sentences instead of tracebacks."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from infra.settings import Settings
from merging.errors import MergeQueueError

console = Console()
errors = Console(stderr=True)


class FriendlyGroup(TyperGroup):
    """Shows the project's own errors as their message; anything else is a defect and is raised."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; exit status 1 where it is refused."""
        try:
            return super().invoke(ctx)
        except MergeQueueError as error:
            errors.print(f"[red]{escape(str(error))}[/red]")
            ctx.exit(1)


def connect() -> Settings:
    """The settings, applied. Prefect and MLflow read the environment when they are imported."""
    settings = Settings.load()
    settings.apply()
    return settings


def step(words: str) -> None:
    """Says what is being done, where that takes a while."""
    console.print(f"[dim]{escape(words)} …[/dim]")


def table(title: str, *columns: str) -> Table:
    """An empty table in the look of this command line."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
