"""Tells a story of the queue: experts arrive, it sweeps, people act, and this is what they see.

Real are the flows and tasks, the gate, the registry (MLflow's client on SQLite), the store (a folder),
the promotion log, the reports, the notices and the commands. Given are coefficients and answers.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from typer.testing import CliRunner

from infra.cli import app
from infra.errors import Corrupt
from infra.queue import MergeQueue
from infra.storage.folder import FolderStore
from infra.storage.manifest import Manifest
from infra.storage.store import S3Uri
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import ExpertFiles, read_head
from merging.kinds import ModelKind
from tests.stories.given import GivenEngine, Rule
from tests.stories.watch import Watch
from tests.stories.world import FAMILY, GATE, Inbox

_VARYING = (
    (r"sqlite:////\S*?mlflow\.db", "MLFLOW"),
    (r"/\S*?/story/", "STORY/"),
    (r"\b[0-9a-f]{64}\b", "SHA256"),
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"\b20\d\d-\d\d-\d\d \d\d:\d\d\b", "TIME"),
)


class Killed(BaseException):
    """The end of a run. Not an Exception, so nothing in a flow can handle it."""


class Tester:
    """One queue and the people around it; every verb returns what they saw since the last."""

    def __init__(
        self,
        watch: Watch,
        given: GivenEngine,
        inbox: Inbox,
        expert: Callable[..., Path],
        new_mlflow: Callable[[], None],
    ) -> None:
        self.watch = watch
        self.given = given
        self.inbox = inbox
        self._expert = expert
        self._new_mlflow = new_mlflow

    @property
    def queue(self) -> MergeQueue:
        """The real queue, for what only a look behind the scenes can show."""
        return MergeQueue.open(FAMILY)

    def land(
        self, task: str, score: int, *, seed: int = 0, gate: int = GATE, adapter: bool = False
    ) -> ModelVersion:
        """A training job uploads an expert and registers it; it has `score` per cent right."""
        folder = self._expert(task, seed, gate, adapter=adapter)
        base = Checkpoint.open(folder.parents[1] / "base") if adapter else None
        head = read_head(task, ExpertFiles(folder, base), ModelKind.TEXT_CLASSIFIER)
        self.given.experts[head.digest] = score
        queue, source = self.queue, S3Uri("models", f"uploads/{task}/{folder.name}")
        for path in folder.iterdir():
            queue.store.upload(path, source / path.name)
        return self.register(task, source)

    def register(self, task: str, source: S3Uri) -> ModelVersion:
        """What a training job says to MLflow."""
        client, name = MlflowClient(), f"{FAMILY}-{task}"
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        tags = {"merge.family": FAMILY, "merge.task": task}
        return client.create_model_version(name, str(source), tags=tags, await_creation_for=0)

    def scores(self, *merged: str, rung: str | None = None, **scores: int) -> None:
        """What a merge that holds these tasks gets right, in per cent by task."""
        self.given.rules.append(Rule(frozenset(merged), rung, scores))

    def fails(self, *merged: str, error: Exception, rung: str | None = None) -> None:
        """Learning a merge that holds these tasks ends with this error."""
        self.given.rules.append(Rule(frozenset(merged), rung, {}, error))

    def sweep(self) -> str:
        """The queue's schedule comes round, or a webhook arrives."""
        return self.types(f"merge {FAMILY}")

    def types(self, command: str) -> str:
        """Ada types a command of `supermerge`."""
        try:
            result = CliRunner().invoke(app, shlex.split(command))
        except Killed as end:
            self.watch.say(f"killed before {end}")
            return self.seen()
        if result.exception and not isinstance(result.exception, SystemExit):
            self.watch.say(f"{type(result.exception).__name__}: {result.exception}")
        for line in f"{result.stdout}\n{result.stderr}".splitlines():
            if line.strip():
                self.watch.say(f"> {line.strip()}")
        return self.seen()

    def tag(self, name: str, version: int, key: str, value: str) -> None:
        """Somebody sets a tag in MLflow's page; nothing in the queue notices by itself."""
        with self.watch.by_hand():
            MlflowClient().set_model_version_tag(name, str(version), key, value)

    def point(self, alias: str, version: int) -> None:
        """Somebody moves an alias in MLflow's page."""
        with self.watch.by_hand():
            MlflowClient().set_registered_model_alias(FAMILY, alias, str(version))

    def delete(self, ref: str) -> None:
        """Somebody deletes a version in MLflow's page."""
        name, _, version = ref.partition("/")
        with self.watch.by_hand():
            MlflowClient().delete_model_version(name, version)

    def copy(self, ref: str, name: str) -> None:
        """Somebody copies a version to another registered model, by `copy_model_version`."""
        with self.watch.by_hand():
            made = MlflowClient().copy_model_version(f"models:/{ref}", name)
            self.watch.known(made.name, made.version, "waiting")

    def change(self, ref: str, file: str, old: str, new: str) -> None:
        """Somebody changes a file of an expert, or of a merged version, where it lies."""
        name, _, version = ref.partition("/")
        source = MlflowClient().get_model_version(name, version).source
        store, uri = self.queue.store, S3Uri.parse(source) / file
        text = store.read(uri).decode()
        assert old in text
        store.write(uri, text.replace(old, new).encode())

    def falls_ill(self) -> None:
        """From now on no model passes the health check."""
        self.given.sickness = Corrupt(
            where="health check of the merged model on a fresh download",
            expected="the answers that were judged",
            found="others",
            remedy="Build it again.",
        )

    def elsewhere_promoted(self, version: int) -> None:
        """Another run commits a version that is registered already."""
        log = self.queue.promotions
        entry = log.newest()
        log.append(
            entry,
            **entry.model_dump(exclude={"sequence", "previous", "frozen", "deployed_in"})
            | {
                "version": version,
                "decided_by": "another run",
                "reason": "Meanwhile.",
                "run_id": "another",
                "time": datetime.now(UTC),
            },
        )

    def meanwhile(self, act: Callable[[], None]) -> None:
        """Does something at the last moment before the next commit."""
        self._patch(FolderStore, "create", act)

    def server_stumbles(self) -> None:
        """MLflow does not answer the next request that registers a version."""

        def stumble() -> None:
            raise ConnectionError("connection reset by peer")

        self._patch(MlflowClient, "create_model_version", stumble)

    def mlflow_is_down(self) -> AbstractContextManager[object]:
        """MLflow does not answer anything."""
        down = ConnectionError("connection refused")
        names = ("search_registered_models", "search_model_versions", "get_run")
        return mock.patch.multiple(
            MlflowClient, **{name: mock.Mock(side_effect=down) for name in names}
        )

    def mlflow_is_lost(self) -> None:
        """MLflow's database is gone, and its server has made an empty one."""
        self.watch.forget()
        self._new_mlflow()

    def dies_once_before_each_task(self) -> None:
        """Every run is killed when it comes to a task that none was killed at."""
        known: set[str] = set()

        def before(task: str) -> None:
            if task not in known:
                known.add(task)
                raise Killed(task)

        self.watch.before_task = before

    def _patch(self, owner: object, name: str, first: Callable[[], None]) -> None:
        """Does something before the next call of a function, and only that once."""
        real = getattr(owner, name)

        def once(*args: object, **more: object) -> object:
            setattr(owner, name, real)
            first()
            return real(*args, **more)

        setattr(owner, name, once)

    def files(self) -> dict[str, str]:
        """What the deployed model consists of, without the pages about it: digests by path."""
        location = S3Uri.parse(self.queue.promotions.newest().location)
        files = Manifest.read(self.queue.store, location).files
        return {path: sha for path, sha in files.items() if not path.startswith("report/")}

    def page(self, artifact: str) -> str:
        """What Prefect's page of the last flow run shows."""
        return self._plain(self.watch.pages[artifact])

    def description(self, version: int) -> str:
        """What MLflow's page of a merged version says."""
        return self._plain(MlflowClient().get_model_version(FAMILY, str(version)).description)

    def seen(self) -> str:
        """All that happened since the last look, in order, without what differs each time."""
        return self._plain("\n".join(self.watch.take()))

    @staticmethod
    def _plain(text: str) -> str:
        for pattern, word in _VARYING:
            text = re.sub(pattern, word, text)
        return "\n".join(map(_wrapped, text.splitlines()))


def _wrapped(line: str) -> str:
    """A line as wide as code is, unless it belongs to a table."""
    if any(edge in line for edge in "│┃┏└┡|"):
        return line
    return "\n".join(
        textwrap.wrap(
            line, 96, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
    )


def with_given(queue: MergeQueue, given: GivenEngine) -> MergeQueue:
    """The same queue with a given engine."""
    return replace(queue, given=given.engine())
