"""A run is killed with SIGKILL at any of its moments; the next one finishes its work, once.

make chaos    # every moment and 200 random ones; `make test` takes a few
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.chaos.kill import MERGE, SETTINGS, moments, trial
from tests.stories.conftest import Saved, World
from tests.stories.world import FAMILY

pytestmark = pytest.mark.chaos

FAST = "CHAOS" not in os.environ
PARTS = range(1 if FAST else 10)
RANDOM = 2 if FAST else 20  # in each part

COMMANDS = [
    ("candidate", "review", f"approve {FAMILY} 2"),
    ("candidate", "review", f"reject {FAMILY} 2"),
    ("candidate", "review", f"rollback {FAMILY} --to 1"),
    ("two", "auto", f"rollback {FAMILY}"),
    ("two", "auto", f"freeze {FAMILY}"),
    ("two", "auto", f"withdraw {FAMILY}-food/1"),
]


@pytest.fixture
def landed(world: World, _deployed: Saved) -> Saved:
    """`weather` is deployed, and `food` has just been registered."""
    return world.saved("landed", _deployed, lambda queue: queue.land("food", 90))


def chosen(count: int, part: int) -> list[int]:
    """The numbers of the moments of a part: together all of them, or a few spread over the run."""
    return list(range(1 + part, count + 1, max(1, count // 3) if FAST else len(PARTS)))


@pytest.mark.parametrize("part", PARTS)
def test_a_merge_killed_at_any_moment_is_finished_by_the_next_run_with_the_same_files(
    world, landed, table, part
):
    with trial(world, landed, merge=SETTINGS) as run:
        names = moments(run, MERGE)
        expected = run.tester.files()
    for at in chosen(len(names), part):
        with trial(world, landed, merge=SETTINGS) as run:
            moment = run.killed(MERGE, at=at)
            # Files move at the same time, in no order; and a run may have a moment less, and end well.
            assert moment in ("", *names)
            run.check()
            assert run.ends() == expected, moment
            assert len(run.tester.queue.promotions.entries()) == 2
    table(
        "SIGKILL of a merge at every moment",
        len(chosen(len(names), part)),
        "finished by the next run",
    )


@pytest.mark.parametrize("part", PARTS)
def test_a_merge_killed_at_random_is_finished_by_the_next_run_with_the_same_files(
    world, landed, table, part
):
    with trial(world, landed, merge=SETTINGS) as run:
        start = time.monotonic()
        run.tester.types(MERGE)
        lasts, expected = time.monotonic() - start, run.tester.files()
    chance = random.Random(part)
    hits = 0
    while hits < RANDOM:
        with trial(world, landed, merge=SETTINGS) as run:
            hits += bool(run.killed(MERGE, after=chance.uniform(0, lasts)))
            run.check()
            assert run.ends() == expected
            assert len(run.tester.queue.promotions.entries()) == 2
    table("SIGKILL of a merge at random", RANDOM, "finished by the next run")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("begin", "promotion", "command"), COMMANDS[: 1 if FAST else None])
def test_a_command_killed_at_any_moment_leaves_all_or_nothing_and_can_be_typed_again(
    world, saved, begin, promotion, command, table, part
):
    with trial(world, saved(begin), promotion=promotion) as run:
        names = moments(run, command)
        entries = len(run.tester.queue.promotions.entries())
    for at in chosen(len(names), part):
        with trial(world, saved(begin), promotion=promotion) as run:
            before = len(run.tester.queue.promotions.entries())
            moment = run.killed(command, at=at)
            # Files move at the same time, in no order; and a run may have a moment less, and end well.
            assert moment in ("", *names)
            run.check()
            run.ends()
            assert len(run.tester.queue.promotions.entries()) in (before, entries)
            said = run.tester.types(command)
            run.ends()
            assert len(run.tester.queue.promotions.entries()) >= entries, (moment, said)
    table(
        f"SIGKILL of `{command.split()[0]}` at every moment",
        len(chosen(len(names), part)),
        "all or nothing",
    )
