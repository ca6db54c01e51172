"""A queue to which anything happens, and what is known about it from outside."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from unittest import mock

from mlflow import MlflowClient
from typer.testing import CliRunner

import infra.flowrun
from infra.cli import app
from infra.errors import Unavailable
from infra.storage.store import S3Uri
from tests.chaos import invariants
from tests.chaos.kill import DEFECT
from tests.chaos.points import Killed, Points
from tests.stories.tester import Tester
from tests.stories.world import FAMILY

# What an expert of each seed has right, in per cent; the last is no better than its base.
SCORES = (90, 91, 50)
BAD = 2


@dataclass
class Landed:
    """An expert as it was registered.

    Attributes:
        excused: Why it may stay out of the deployed model, whatever it can; "" where it may not.
    """

    task: str
    seed: int
    ref: str
    excused: str = ""


@dataclass
class Actor:
    """Acts on one queue as people, training jobs, disks and kills do; checks it after each act."""

    tester: Tester
    points: Points
    promotion: str
    landed: list[Landed] = field(default_factory=list)
    approved: set[int] = field(default_factory=set)
    broken: dict[S3Uri, bytes] = field(default_factory=dict)
    log: invariants.Log = field(default_factory=invariants.Log)
    past: list[str] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.queue = self.tester.queue

    def land(self, task: str, seed: int) -> None:
        """A training job registers an expert."""
        with self._said(f"land {task} {seed}"):
            version = self.tester.land(task, SCORES[seed], seed=seed)
        for earlier in self.landed:
            if earlier.task == task:
                earlier.excused = "another version of its task was registered later"
        excused = "no better than its base" if seed == BAD else ""
        self.landed.append(Landed(task, seed, f"{version.name}/{version.version}", excused))

    def types(self, command: str) -> str:
        """Somebody types a command; it ends well, or in a sentence.

        Raises:
            AssertionError: It ends in anything else.
        """
        with self._said(command):
            try:
                result = CliRunner().invoke(app, shlex.split(command))
            except Killed as end:
                self.past.append(f"[killed {end}]")
                self.count["kills"] += 1
                return ""
            error = result.exception
            if error is not None and not isinstance(error, SystemExit):
                raise AssertionError(f"{command} ends in {error!r}") from error
            assert DEFECT not in result.output, f"{command}: {result.output}"
            return result.output

    def sweep(self) -> str:
        return self.types(f"merge {FAMILY}")

    def at(self, point: int, act: Callable[[str], None], command: str) -> str:
        """Somebody types a command, and something happens at one of its moments.

        The line of the family saves only work, so nobody waits here for anybody.
        """
        self.points.start(point, act)
        try:
            return self.types(command)
        finally:
            self.count["moments"] += len(self.points.passed)
            self.points.start()

    def killed(self, point: int, command: str) -> None:
        self.at(point, self.points.kill, command)

    def version(self, pick: int) -> int:
        """One of the merged versions, or one that there is not."""
        versions = self.queue.registry.merged.of(FAMILY)
        return versions[-1 - pick % len(versions)].version if versions else 1

    def has_versions(self) -> bool:
        return bool(self.queue.registry.merged.of(FAMILY))

    def another(self, task: str) -> int:
        """The seed of a good expert of a task, another one than was registered last."""
        last = [expert.seed for expert in self.landed if expert.task == task][-1:]
        return 1 if last == [0] else 0

    def expert(self, pick: int) -> Landed | None:
        return self.landed[-1 - pick % len(self.landed)] if self.landed else None

    def review(self, version: int, decision: str, by_tag: bool) -> None:
        """A person decides on a version, in MLflow or by command."""
        if decision == "approve":
            self.approved.add(version)
        else:
            self.excuse("a candidate was rejected in review")
        if not by_tag:
            self.types(f"{decision} {FAMILY} {version} --reason because")
            return
        value = {"approve": "approved", "reject": "rejected"}[decision]
        self.by_hand("set_model_version_tag", FAMILY, str(version), "approval_status", value)

    def rollback(self, to: int | None) -> None:
        self.excuse("there was a rollback")
        self.types(f"rollback {FAMILY}" + (f" --to {to}" if to is not None else ""))

    def release(self, expert: Landed) -> None:
        for other in self.landed:
            if other.task == expert.task:
                other.excused = "an expert of its task was released"
        self.types(f"release {expert.ref}")

    def withdraw(self, expert: Landed) -> None:
        expert.excused = "it was withdrawn"
        self.types(f"withdraw {expert.ref} --reason because")

    def excuse(self, why: str) -> None:
        """After this nobody can say any more which of the present experts have to be deployed."""
        for expert in self.landed:
            expert.excused = expert.excused or why

    def by_hand(self, method: str, *args: str) -> None:
        """Somebody does something in MLflow's page; what is not there stays so."""
        with self._said(f"{method} {' '.join(args)}"), self.tester.watch.by_hand():
            if self.queue.registry.client.search_registered_models(f"name = '{args[0]}'"):
                numbers = {v.version for v in self._versions(args[0])}
                if not set(args[1:]) & {str(n) for n in range(1000)} - numbers:
                    getattr(MlflowClient(), method)(*args)

    def damage(self, uri: S3Uri, data: bytes | None) -> None:
        """An object in the store is lost, or has other bytes from now on."""
        with self._said(f"{'delete' if data is None else 'damage'} {uri}"):
            self.broken.setdefault(uri, self.queue.store.read(uri))
            if data is None:
                self.queue.store.delete(uri)
            else:
                self.queue.store.write(uri, data)
        self.excuse("something in the store was damaged")

    def restore(self) -> None:
        """An administrator brings back what was lost, as it was."""
        with self._said("restore"):
            for uri, data in self.broken.items():
                self.queue.store.write(uri, data)
            self.broken.clear()

    def without_mlflow(self, command: str) -> None:
        """MLflow's server is down while somebody types a command."""
        down = mock.Mock(side_effect=Unavailable("MLflow does not answer.", "Start it."))
        names = [
            n for n in dir(MlflowClient) if n.startswith(("search_", "get_", "set_", "create_"))
        ]
        with mock.patch.multiple(MlflowClient, **dict.fromkeys(names, down)):
            self.types(command)

    def check(self) -> None:
        """What holds at every moment."""
        for entry in self.log.grown(self.queue):
            manifest = invariants.check_entry(self.queue, entry)
            self.count[f"entries of the log ({entry.action})"] += 1
            known = {e.ref: e for e in self.landed}
            for record in manifest.experts:
                assert known[record.ref].seed != BAD, f"{record.ref} is bad, and is deployed"
                assert known[record.ref].task == record.task
            if self.promotion == "review" and entry.action == "promote":
                assert entry.version in self.approved, f"nobody approved {entry.version}"

    def settle(self) -> None:
        """Left alone, with everything whole, the queue comes to rest, and rests as the log says."""
        self.restore()
        self.types(f"thaw {FAMILY}")
        for _ in range(4):
            self.sweep()
            self.check()
            pending = [v for v in self.queue.registry.merged.of(FAMILY) if v.status == "candidate"]
            for version in pending[-1:]:
                self.review(version.version, "approve", by_tag=False)
                self.check()
        before = invariants.states(self.queue)
        self.sweep()
        self.check()
        assert invariants.states(self.queue) == before, "it does not come to rest"
        assert not (faults := list(invariants.mirror_faults(self.queue))), faults
        assert not (left := invariants.stuck(self.queue)), left
        deployed = {(r.task, r.digest) for r in invariants.deployed_experts(self.queue)}
        tags = {e.ref: e for e in self.queue.registry.experts.of(FAMILY)}
        for expert in self.landed:
            if not expert.excused:
                found = tags[expert.ref]
                assert (found.task, found.tags.digest) in deployed, (
                    f"{expert.ref} is lost: {found.status}, {found.reason}"
                )

    def _versions(self, name: str) -> list[object]:
        return list(MlflowClient().search_model_versions(f"name = '{name}'"))

    def _said(self, words: str):  # type: ignore[no-untyped-def]
        self.past.append(words)
        # Runs that meet each other: the line of the family is not what keeps them apart.
        return mock.patch.object(infra.flowrun, "concurrency", return_value=nullcontext())
