"""The demo: real experts land in MLflow one after another, and the queue does the rest.

    make demo            # or: supermerge demo

Nothing here merges, judges or promotes. It trains experts (or takes those that it trained before),
registers them in MLflow and watches what the flow does, which MLflow's webhook starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.demo.report import ask_deployed_model, show_result
from infra.errors import Unavailable
from infra.settings import PROJECT, Settings
from infra.storage.cache import sha256_file, sha256_tree
from infra.storage.layout import files_in

FAMILY = "demo"
CACHE = PROJECT / ".cache"
_SETTLED = {"merged", "rejected", "held", "withdrawn"}
_PATIENCE = 900  # Seconds that the decision on one expert may take.
_POLL = 1.0  # Seconds between two looks at an expert.
_LINE_EVERY = 10.0  # Seconds between lines of progress where there is no terminal.


@dataclass(frozen=True)
class DemoExpert:
    """An expert of the demo; the spoilt one is trained on shuffled labels."""

    task: str
    spoilt: bool = False

    @property
    def title(self) -> str:
        """What people read."""
        return f"{self.task} (trained on shuffled labels)" if self.spoilt else self.task


ARRIVALS = (
    DemoExpert("movie-review"),
    DemoExpert("tweet-sentiment"),
    DemoExpert("city-country", spoilt=True),
    DemoExpert("icd10-chapter"),
)


def run_demo(console: Console, *, fresh: bool = False) -> None:
    """Runs the whole demo; run again it goes on where it was, or shows what there is.

    Args:
        console: Where progress and results are shown.
        fresh: Empty the family ``demo`` first.

    Raises:
        Unavailable: A server does not come up, or an expert is not decided in time.
    """
    started = time.monotonic()
    console.rule("A merge queue for models: demo")
    with ThreadPoolExecutor(1) as pool:
        stack = pool.submit(_start_stack, console)
        base, experts = _train(console)
        settings = stack.result()
    settings.apply()  # MLflow and Prefect read the environment when they are imported.

    from infra.demo.reset import empty_family
    from infra.queue import MergeQueue

    queue = MergeQueue.open(FAMILY, settings)
    if fresh:
        empty_family(queue)
        console.print(f"The family {FAMILY!r} is empty.")
    for path in sorted(base.iterdir()):
        queue.store.upload(path, queue.family.base_uri / path.name)

    settled = []
    for arrival, directory in zip(ARRIVALS, experts, strict=True):
        console.rule(escape(arrival.title))
        settled.append(land_expert(console, queue, arrival, directory))
    show_result(console, queue, settled)
    ask_deployed_model(console, FAMILY, [e.task for e in settled if e.status == "merged"])
    console.print(
        f"\nDone in {time.monotonic() - started:.0f} s. The servers stay up: "
        "[bold]supermerge status demo[/bold] shows the queue, [bold]make down[/bold] stops them."
    )


def _start_stack(console: Console) -> Settings:
    from infra.stack import start_stack

    return start_stack(report=lambda step: console.print(f"  {escape(step)}"))


def _train(console: Console) -> tuple[Path, list[Path]]:
    from infra.demo.backbones import build_base
    from infra.demo.tasks import TASKS
    from infra.demo.train import TrainingStep, train_expert

    base = build_base(CACHE)
    experts = []
    for arrival in ARRIVALS:
        with _progress(console, f"expert {arrival.title}") as show:

            def progress(step: TrainingStep, show=show) -> None:  # type: ignore[no-untyped-def]
                show(f"training, step {step.step} of {step.steps}, loss {step.loss:.3f}")

            experts.append(
                train_expert(
                    TASKS[arrival.task],
                    base,
                    CACHE / "experts",
                    shuffle_labels=arrival.spoilt,
                    cache=CACHE,
                    progress=progress,
                )
            )
    return base, experts


def land_expert(console: Console, queue, arrival: DemoExpert, directory: Path):  # type: ignore[no-untyped-def]
    """Uploads an expert, registers it in MLflow, and waits for the queue's decision."""
    files = {path: sha256_file(directory / path) for path in files_in(directory)}
    digest = sha256_tree(files)
    target = queue.family.root / "experts" / arrival.task / digest
    for name in files:
        queue.store.upload(directory / name, target / name)
    expert = queue.registry.experts.register(queue.name, arrival.task, target, digest)
    console.print(f"Registered in MLflow as {expert.ref}; the webhook starts the flow.")

    deadline = time.monotonic() + _PATIENCE
    with _progress(console, expert.ref) as show:
        from infra.demo.watch import present_step

        while expert.status not in _SETTLED:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{expert.ref} was not decided within {_PATIENCE} s; its status is "
                    f"{expert.status!r}.",
                    "Look at the flow run in Prefect and at the logs in "
                    f"{queue.settings.state_dir / 'logs'}.",
                )
            time.sleep(_POLL)
            expert = queue.registry.experts.get(expert.name, expert.version)
            show(f"{expert.status}: {present_step(queue.settings.prefect_api)}")
    colour = "green" if expert.status == "merged" else "red"
    console.print(f"[{colour}]{expert.status}[/{colour}]: {escape(expert.reason)}")
    return expert


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """A line that shows what is going on and for how long; without a terminal, one now and then."""
    if not console.is_terminal:
        yield _now_and_then(console, what)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        line = progress.add_task(escape(what), total=1)
        yield lambda text: progress.update(line, description=escape(f"{what}: {text}"))
        progress.update(line, description=escape(what), completed=1)


def _now_and_then(console: Console, what: str) -> Callable[[str], None]:
    shown = time.monotonic()

    def show(text: str) -> None:
        nonlocal shown
        if time.monotonic() - shown > _LINE_EVERY:
            shown = time.monotonic()
            console.print(escape(f"  {what}: {text}"))

    return show
