"""Runs that are killed with SIGKILL, as a child process each, and what the next run makes of it."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from merging.experts.heads import Head
from merging.learning.learn import Learned, learn_coefficients
from merging.learning.run import LearningRun
from merging.models.coefficients import Coefficients
from merging.settings import MergeSettings
from merging.vectors.expert_set import ExpertSet
from tests.chaos import invariants
from tests.chaos.points import Points
from tests.stories.conftest import Saved, World
from tests.stories.given import BASE, TABLE, GivenEngine
from tests.stories.tester import Tester
from tests.stories.world import FAMILY

DEFECT = "Something went wrong that should not"
SETTINGS = {"granularity": "tensor", "steps": 4, "evaluate_every": 1, "calibration_size": 32}


@contextmanager
def really_learning() -> Iterator[None]:
    """Coefficients are learned, step by step; only the answers stay given."""

    def learn(_: GivenEngine, experts: ExpertSet, settings: MergeSettings, **more: Any) -> Learned:
        return learn_coefficients(experts, settings, **more)

    def score(self: GivenEngine, model: Path, head: Head) -> int:
        file = model.parent / "coefficients.safetensors"
        merged = file.exists() and head.task in Coefficients.load(file).tasks
        return self.experts[head.digest] if merged or (model / TABLE).exists() else BASE

    with (
        mock.patch.object(GivenEngine, "learn", learn),
        mock.patch.object(GivenEngine, "_score", score),
    ):
        yield


class Trial:
    """One queue, as it was saved; a run of it is killed, and then another one ends."""

    def __init__(self, tester: Tester, points: Points, folder: Path) -> None:
        self.tester = tester
        self._folder = folder
        self.points = points
        self.log = invariants.Log()
        self.log.grown(tester.queue)

    def killed(self, command: str, at: int | None = None, after: float | None = None) -> str:
        """Types a command in a child process that is killed at a moment, or after so many seconds.

        Returns:
            Where it was, as far as that is known; "" where it ended before.
        """
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            self._die(command, at, write)
        os.close(write)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        with os.fdopen(read) as told:
            where = told.read().strip().rpartition("\n")[2]
        _, status = os.waitpid(child, 0)
        self._catch_up()
        return where if os.WIFSIGNALED(status) else ""

    def all_at_once(self, commands: Sequence[str]) -> list[str]:
        """Types each command in a child process of its own, all at one moment; gives what each says."""
        read, write = os.pipe()
        children = []
        for number, command in enumerate(commands):
            said = self._folder / str(number)
            child = os.fork()
            if child == 0:
                os.close(write)
                os.read(read, 1)  # Which ends for all of them when the parent closes its end.
                self._say(command, said)
            children.append((child, said))
        os.close(write)
        os.close(read)
        for child, _ in children:
            os.waitpid(child, 0)
        self._catch_up()
        return [said.read_text() for _, said in children]

    def _say(self, command: str, said: Path) -> None:
        words = "it ended without a word"
        try:
            words = self.tester.types(command)
        finally:
            said.write_text(words)
            os._exit(0)

    def _catch_up(self) -> None:
        registry = self.tester.queue.registry
        known = {(FAMILY, str(v.version)): v.status or "" for v in registry.merged.of(FAMILY)}
        known |= {(e.name, str(e.version)): e.status or "" for e in registry.experts.of(FAMILY)}
        self.tester.watch.catch_up(known)

    def _die(self, command: str, at: int | None, told: int) -> None:
        def end(name: str) -> None:
            os.write(told, f"{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            self.points.start(at, end)
            if at is None:
                os.write(told, b"at a random moment\n")
            self.tester.types(command)
            status = 0
        finally:
            os._exit(status)

    def check(self) -> None:
        """What holds of what the killed run left behind."""
        for entry in self.log.grown(self.tester.queue):
            invariants.check_entry(self.tester.queue, entry)

    def ends(self) -> dict[str, str]:
        """The next run; gives the deployed files, after everything was looked at.

        Raises:
            AssertionError: Something is lost, stuck, done twice or does not rest.
        """
        said = self.tester.sweep()
        assert DEFECT not in said, said
        self.check()
        queue = self.tester.queue
        assert not (faults := list(invariants.mirror_faults(queue))), (faults, said)
        assert not (left := invariants.stuck(queue)), (left, said)
        before = invariants.states(queue)
        self.tester.sweep()
        self.check()
        assert invariants.states(queue) == before, "it does not come to rest"
        return self.tester.files()


@contextmanager
def trial(world: World, saved: Saved, **family: object) -> Iterator[Trial]:
    """A queue as it was saved, in a folder of its own."""
    points = Points()
    with (
        tempfile.TemporaryDirectory() as folder,
        world.queue(Path(folder) / "story", family, saved) as tester,
        really_learning(),
        points.watching(),
        _steps_told(points),
    ):
        yield Trial(tester, points, Path(folder))


def moments(run: Trial, command: str) -> list[str]:
    """The names of all moments of a command that nobody kills."""
    run.points.start()
    run.tester.types(command)
    return list(run.points.passed)


@contextmanager
def _steps_told(points: Points) -> Iterator[None]:
    """Each saved learning step is a moment as well, before and after."""
    save: Callable[..., None] = LearningRun._save  # noqa: SLF001

    def told(run: LearningRun, path: Path) -> None:
        points.come(f"before saving step {run.merge.step}")
        save(run, path)
        points.come(f"after saving step {run.merge.step}")

    with mock.patch.object(LearningRun, "_save", told):
        yield


MERGE = f"merge {FAMILY}"
