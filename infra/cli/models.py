"""Commands about merged models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from infra.cli.output import connect, console, table
from infra.cli.queue import Family
from infra.errors import Corrupt, Unreadable


def history(family: Family) -> None:
    """Every promotion and rollback: when, what, who or what decided, and the scores."""
    connect()
    from infra.history import gate_scores
    from infra.queue import MergeQueue

    queue = MergeQueue.open(family)
    shown = table(
        f"History of {family}",
        "no.",
        "time (UTC)",
        "action",
        "version",
        "scores",
        "decided by",
        "reason",
    )
    faults: dict[str, None] = {}
    for entry in queue.promotions.entries():
        scores: dict[str, float] = {}
        try:
            if entry.deployment == entry.sequence:
                scores = gate_scores(queue, entry.model)
        except (Corrupt, Unreadable) as error:
            faults[str(error)] = None
        shown.add_row(
            str(entry.sequence),
            f"{entry.time:%Y-%m-%d %H:%M}",
            entry.action,
            str(entry.version),
            "\n".join(f"{name} {score:.3f}" for name, score in scores.items()),
            escape(entry.decided_by),
            escape(entry.reason),
        )
    console.print(shown)
    for fault in faults:
        console.print(escape(fault))


def diff(
    family: Family,
    a: Annotated[int, typer.Argument(help="One version.")],
    b: Annotated[int, typer.Argument(help="Another version.")],
) -> None:
    """What differs between two merged versions: experts, scores, coefficients."""
    connect()
    from infra.comparison import compare
    from infra.queue import MergeQueue

    shown = table(f"{family}: version {a} → {b}", "task", "expert", "score", "mean coefficient")
    for row in compare(MergeQueue.open(family), a, b):
        shown.add_row(*row)
    console.print(shown)


def pull(
    family: Family,
    directory: Annotated[Path, typer.Argument(help="Where to write the model; must not exist.")],
    version: Annotated[int | None, typer.Option(help="Default: the deployed one.")] = None,
) -> None:
    """Downloads a merged model, every digest checked."""
    connect()
    from infra.history import pull_model
    from infra.queue import MergeQueue

    pulled = pull_model(MergeQueue.open(family), directory, version)
    console.print(f"Version {pulled.version} of {family} is in {directory}.")
