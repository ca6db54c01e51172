"""Lands two more experts in the demo's family, so that its history has five versions.

make demo && .venv/bin/python docs/five_versions.py && .venv/bin/python docs/screenshots.py demo
"""

from __future__ import annotations

from rich.console import Console

from infra.demo.backbones import build_base
from infra.demo.report import show_result
from infra.demo.run import CACHE, FAMILY, DemoExpert, land_expert
from infra.demo.tasks import TASKS
from infra.demo.train import Recipe, train_expert
from infra.settings import Settings

# A new task, properly trained this time, and a new expert of a task that is deployed.
ARRIVALS = ((DemoExpert("city-country"), 0), (DemoExpert("tweet-sentiment"), 1))


def main() -> None:
    """Trains what is missing, lands one after the other and shows what became of them."""
    Settings.load().apply()  # before mlflow and prefect are imported
    from infra.queue import MergeQueue

    console = Console()
    queue, base = MergeQueue.open(FAMILY), build_base(CACHE)
    settled = []
    for arrival, seed in ARRIVALS:
        recipe = Recipe(seed=seed)
        expert = train_expert(TASKS[arrival.task], base, CACHE / "experts", recipe=recipe)
        settled.append(land_expert(console, queue, arrival, expert))
    show_result(console, queue, settled)


if __name__ == "__main__":
    main()
