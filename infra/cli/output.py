"""What commands share: the console, and errors shown as sentences instead of tracebacks."""

from __future__ import annotations

import copy
import logging
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from infra.faults import explained
from infra.settings import Settings, default_state_dir

LINE = "%(asctime)s | %(levelname)-7s | %(message)s"
console = Console()
errors = Console(stderr=True)


class Sentences(logging.Formatter):
    """What flows log, without tracebacks: the command ends with a sentence, and Prefect keeps the rest."""

    def format(self, record: logging.LogRecord) -> str:
        """The message alone; other handlers get the record as it is."""
        shown = copy.copy(record)
        shown.exc_info = shown.exc_text = shown.stack_info = None
        return super().format(shown)


class FriendlyGroup(TyperGroup):
    """Shows what went wrong as a sentence; the traceback of a defect goes into a file."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; exit status 1 where it is refused or fails."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("typer", "click"):
                raise
            if ctx.params.get("verbose"):
                errors.print_exception(show_locals=False)  # Locals may hold secrets.
            told = explained(error) or _defect(error)
            errors.print(f"[red]{escape(str(told))}[/red]")
            ctx.exit(1)


def _defect(error: Exception) -> str:
    """What people read of an error that nobody foresaw; its traceback is kept for who mends it."""
    from infra.stack.files import private_folder

    words = f"Something went wrong that should not: {type(error).__name__}: {error}."
    with suppress(OSError):
        file = private_folder(default_state_dir() / "logs") / "supermerge.log"
        with file.open("a") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {' '.join(sys.argv[1:])}\n")
            traceback.print_exception(error, file=log)
        return f"{words} Please report it, with the end of {file}."
    return f"{words} `supermerge --verbose` shows where."


def connect() -> Settings:
    """The settings, applied. Prefect and MLflow read the environment when they are imported."""
    settings = Settings.load()
    settings.apply()
    if settings.log_format == "json":
        from infra.logs import write_json

        write_json()
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
