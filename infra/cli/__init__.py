"""The command line ``supermerge``: each command calls the function that the flow calls.

This is the one place in ``infra`` that may import flows and tasks, and nothing imports it.
"""

from __future__ import annotations

import logging
import os

import typer

from infra.cli import checking, doctor, experts, garbage, models, queue, stack, status
from infra.cli.output import LINE, FriendlyGroup, Sentences
from infra.shell import CLIENT_DEFAULTS

# Torch, transformers, MLflow and Prefect read the environment once, when they are imported.
for name, value in CLIENT_DEFAULTS.items():
    os.environ.setdefault(name, value)

app = typer.Typer(
    cls=FriendlyGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # Locals may hold secrets.
    help="A merge queue for models: merges, gates and promotes task experts of one base.",
)

app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.deploy)
app.command()(doctor.doctor)
app.command()(queue.demo)
app.command()(status.status)
app.command()(experts.upload_base)
app.command()(checking.check)
app.command()(experts.register)
app.command()(experts.release)
app.command()(experts.withdraw)
app.command()(experts.rename)
app.command()(experts.prioritise)
app.command()(experts.explain)
app.command()(queue.merge)
app.command()(queue.promote)
app.command()(queue.approve)
app.command()(queue.reject)
app.command()(queue.rollback)
app.command()(queue.freeze)
app.command()(queue.thaw)
app.command()(queue.rebuild)
app.command()(queue.audit)
app.command()(garbage.gc)
app.command()(models.history)
app.command()(models.diff)
app.command()(models.pull)


@app.callback()
def configure(verbose: bool = typer.Option(False, "--verbose", "-v", help="Show logs.")) -> None:
    """Sets the log level of every command."""
    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter(LINE) if verbose else Sentences(LINE))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[shown])
    if not verbose:  # What Prefect says of its own threads when its server is away.
        os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
        logging.getLogger("prefect.events").setLevel(logging.CRITICAL)
    # Urllib3 warns of every connection that a parallel download closes.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
