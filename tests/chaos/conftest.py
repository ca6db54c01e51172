"""What tests of chaos share with the stories, and the table of what was tried."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stories.conftest import Saved, World, _deployed, _food, _world

__all__ = ["_deployed", "_world"]

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
MARK = "## What came of it"
HEAD = "| case | times | outcome | seconds |"


@pytest.fixture
def world(_world: World) -> World:
    """The base, the experts and the queues that are made once."""
    return _world


@pytest.fixture
def saved(_world: World, _deployed: Saved) -> Callable[[str], Saved]:
    """Queues that stories begin with, by name."""

    def make(name: str) -> Saved:
        family = {"promotion": "review"} if name == "candidate" else {}
        return _world.saved(name, _deployed, _food, **family)

    return make


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Callable[[str, int, str], None]:
    """Takes a row of the table: what was tried, how often, and what came of it."""

    def add(case: str, times: int, outcome: str) -> None:
        request.node.user_properties.append(("chaos", (case, times, outcome)))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table of what was tried; `make chaos` has it written to the end of a page as well."""
    if "CHAOS" not in os.environ:
        return
    times: Counter[tuple[str, str]] = Counter()
    seconds: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, (case, count, words) in report.user_properties:
                if name == "chaos":
                    times[case, words] += count
                    seconds[case, words] += round(report.duration)
    lines = [
        f"| {case} | {times[case, words]} | {words} | {seconds[case, words]} |"
        for case, words in times
    ]
    shown = "\n".join((HEAD, "| --- | --- | --- | --- |", *lines))
    terminalreporter.write_line(shown)
    if os.environ["CHAOS"] == "write" and not terminalreporter.stats.get("failed"):
        before = PAGE.read_text().partition(MARK)[0]
        PAGE.write_text(f"{before}{MARK}\n\n{shown}\n")
