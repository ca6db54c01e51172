"""What the stories share, made once; each starts with an empty queue, or with one that is deployed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from mlflow import MlflowClient

from infra import notify
from infra.cli import output
from infra.cli import queue as cli_queue
from infra.queue import MergeQueue
from tests.stories.asked_once import contracts_asked_once
from tests.stories.given import GivenEngine
from tests.stories.plain_prefect import plain_prefect
from tests.stories.states import check_transitions
from tests.stories.tester import Tester, with_given
from tests.stories.watch import Watch
from tests.stories.world import FAMILY, Database, Inbox, write_base, write_expert, write_family

OPEN = MergeQueue.open
Open = Callable[..., MergeQueue]


@dataclass
class Saved:
    """What a queue had come to, so that other stories can go on from there."""

    folder: Path
    watch: Watch
    given: GivenEngine
    files: dict[str, str]


class World:
    """What is made once: the base, experts, and queues that stories begin with."""

    def __init__(self, root: Path, empty_mlflow: Path) -> None:
        self.root = root
        self.base = write_base(root / "base")
        self.database = Database(root, empty_mlflow)
        self.inbox = Inbox()
        self._saved: dict[str, Saved] = {}

    def expert(self, task: str, seed: int, gate: int, *, adapter: bool = False) -> Path:
        folder = self.root / "experts" / f"{task}-{seed}-{gate}{'-adapter' * adapter}"
        if not folder.exists():
            write_expert(self.base, folder, sum(map(ord, task)) + seed, gate, adapter=adapter)
        return folder

    def saved(
        self, name: str, begin: Saved | None, happens: Callable[[Tester], object], **family: object
    ) -> Saved:
        """What becomes of a queue when this happens to it; happens once."""
        if name not in self._saved:
            folder = self.root / "saved" / name / "story"
            with self.queue(folder, family, begin) as queue:
                happens(queue)
                files = queue.files()
            self.database.save(folder / "mlflow.db")
            self._saved[name] = Saved(folder, queue.watch, queue.given, files)
        return self._saved[name]

    @contextmanager
    def queue(
        self, folder: Path, family: dict[str, object], begin: Saved | None
    ) -> Iterator[Tester]:
        """A queue without servers in a folder of its own, empty or as another one was left."""
        watch = begin.watch.copy() if begin else Watch()
        given = begin.given.copy() if begin else GivenEngine()
        self.database.restore(begin and begin.folder / "mlflow.db")
        if begin:
            shutil.copytree(begin.folder / "store", folder / "store")
        else:
            shutil.copytree(self.base, folder / "store/models/bases/tiny")
        write_family(folder / "families", self.inbox.address, **family)
        self.inbox.broken = False
        self.inbox.receive = lambda n: watch.say(
            f"notice {n['event']}: {n['subject']}: {n['text']}", n["text"]
        )
        variables = {
            "LOGNAME": "ada",
            "SUPERMERGE_STATE_DIR": str(folder),
            "SUPERMERGE_FAMILIES_DIR": str(folder / "families"),
            "SUPERMERGE_STORE_DIR": str(folder / "store"),
            "SUPERMERGE_MLFLOW_URI": self.database.uri,
            "SUPERMERGE_PREFECT_API": "http://127.0.0.1:9/api",  # nobody is there
        }
        with (
            mock.patch.dict(os.environ, variables),
            mock.patch.object(MergeQueue, "open", lambda *args: with_given(OPEN(*args), given)),
            mock.patch.object(notify, "WAITS", (0.0, 0.0)),
            # Before each tag MLflow's own client asks whether the model is a prompt; ours does not.
            mock.patch.object(MlflowClient, "_raise_if_prompt"),
            mock.patch.object(cli_queue, "prefect_answers", return_value=True),
            mock.patch.object(output.console, "_width", 1000),
            mock.patch.object(output.errors, "_width", 1000),
            contracts_asked_once(),
            watch.watching(),
            plain_prefect(
                watch.say, lambda task: watch.before_task(task), watch.turns, watch.pages
            ),
        ):
            OPEN(FAMILY)  # tells MLflow's client where everything is
            yield Tester(watch, given, self.inbox, self.expert, self.database.restore)


def _weather(queue: Tester) -> None:
    queue.land("weather", 90)
    queue.sweep()


def _food(queue: Tester) -> None:
    queue.land("food", 90)
    queue.sweep()


@pytest.fixture(scope="session")
def _world(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[World]:
    torch.set_num_threads(1)  # tiny tensors
    world = World(tmp_path_factory.mktemp("stories"), empty_mlflow)
    yield world
    world.inbox.close()


@pytest.fixture(scope="session")
def _deployed(_world: World) -> Saved:
    return _world.saved("deployed", None, _weather)


@pytest.fixture
def queue(
    request: pytest.FixtureRequest, _world: World, _deployed: Saved, tmp_path: Path
) -> Iterator[Tester]:
    """A family's queue before its first expert."""
    yield from _tell(request, _world, tmp_path, None)


@pytest.fixture
def deployed(
    request: pytest.FixtureRequest, _world: World, _deployed: Saved, tmp_path: Path
) -> Iterator[Tester]:
    """The same with `weather` in the deployed version 1."""
    yield from _tell(request, _world, tmp_path, _deployed)


@pytest.fixture
def two(
    request: pytest.FixtureRequest, _world: World, _deployed: Saved, tmp_path: Path
) -> Iterator[Tester]:
    """The same with `food` in the deployed version 2."""
    yield from _tell(request, _world, tmp_path, _world.saved("two", _deployed, _food))


@pytest.fixture
def undisturbed(_world: World, _deployed: Saved) -> dict[str, str]:
    """The files of version 2 of `two`."""
    return _world.saved("two", _deployed, _food).files


@pytest.fixture
def candidate(
    request: pytest.FixtureRequest, _world: World, _deployed: Saved, tmp_path: Path
) -> Iterator[Tester]:
    """The same with `food` in version 2, which waits for review."""
    saved = _world.saved("candidate", _deployed, _food, promotion="review")
    yield from _tell(request, _world, tmp_path, saved)


def _tell(
    request: pytest.FixtureRequest, world: World, folder: Path, begin: Saved | None
) -> Iterator[Tester]:
    """`@pytest.mark.family(…)` says what the story's family has that the plain one has not."""
    marker = request.node.get_closest_marker("family")
    with world.queue(folder / "story", marker.kwargs if marker else {}, begin) as queue:
        yield queue
    check_transitions(request.node.name, queue.watch.transitions)
