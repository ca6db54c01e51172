"""Whatever happens to a queue, in whatever order: the log is true, and everything comes to rest.

make chaos    # ten thousand steps; `make test` takes a few hundred
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.chaos.actor import Actor
from tests.chaos.points import Points
from tests.stories.conftest import World
from tests.stories.world import FAMILY

pytestmark = pytest.mark.chaos

TASKS = ("weather", "food", "sport")
TOTAL: Counter[str] = Counter()
STEPS = 25  # of one queue
PARTS = range(10 if "CHAOS" in os.environ else 1)
QUEUES = int(os.environ.get("CHAOS_QUEUES", "40" if "CHAOS" in os.environ else "4"))  # in each part

commanded = st.integers(0, 11)
picks = st.integers(0, 3)
moments = st.integers(1, 12) | st.integers(1, 150)
tasks = st.sampled_from(TASKS)
seeds = st.sampled_from([0, 0, 1, 2])


def commands(version: int, ref: str) -> list[str]:
    """What may be typed at any moment."""
    return [
        f"merge {FAMILY}",
        f"approve {FAMILY} {version}",
        f"promote {FAMILY} {version}",
        f"rollback {FAMILY}",
        f"audit {FAMILY}",
        f"history {FAMILY}",
        f"status {FAMILY}",
        f"release {ref}",
        f"explain {ref}",
        f"withdraw {ref}",
        f"freeze {FAMILY}",
        f"thaw {FAMILY}",
    ]


class Queue(RuleBasedStateMachine):
    """One family's queue, from its first expert on."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()

    @initialize(
        promotion=st.sampled_from(["auto", "review"]),
        ladder=st.sampled_from([["relearn"], ["chain", "relearn"]]),
        arrived=st.integers(0, 2),
    )
    def begin(self, promotion: str, ladder: list[str], arrived: int) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        family = {"promotion": promotion, "ladder": ladder}
        tester = self._stack.enter_context(self.world.queue(folder / "story", family, None))
        points = Points()
        self._stack.enter_context(points.watching())
        self.actor = Actor(tester, points, promotion)
        for task in TASKS[:arrived]:
            self.arrive(task)

    def teardown(self) -> None:
        try:
            if hasattr(self, "actor"):
                self.actor.settle()
        except BaseException:
            print("\n".join(self.actor.past))
            raise
        finally:
            self._stack.close()
        TOTAL.update(self.actor.count)
        TOTAL["done"] += len(self.actor.past)

    @invariant()
    def the_log_is_true(self) -> None:
        if hasattr(self, "actor"):
            self.actor.check()

    @rule(task=tasks, seed=seeds)
    def land(self, task: str, seed: int) -> None:
        self.actor.land(task, seed)

    @rule()
    def sweep(self) -> None:
        self.actor.sweep()

    @rule(task=tasks)
    def arrive(self, task: str) -> None:
        """What happens most days."""
        self.actor.land(task, self.actor.another(task))
        self.actor.sweep()
        if self.actor.promotion == "review":
            self.actor.review(self.actor.version(0), "approve", by_tag=False)

    @rule(task=tasks)
    def arrive_too(self, task: str) -> None:
        self.arrive(task)

    @precondition(lambda self: self.actor.has_versions())
    @rule(pick=picks, decision=st.sampled_from(["approve", "reject"]), by_tag=st.booleans())
    def review(self, pick: int, decision: str, by_tag: bool) -> None:
        self.actor.review(self.actor.version(pick), decision, by_tag)

    @precondition(lambda self: self.actor.has_versions())
    @rule(to=st.none() | picks)
    def rollback(self, to: int | None) -> None:
        self.actor.rollback(None if to is None else self.actor.version(to))

    @rule(pick=picks)
    def release(self, pick: int) -> None:
        if expert := self.actor.expert(pick):
            self.actor.release(expert)

    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        if expert := self.actor.expert(pick):
            self.actor.withdraw(expert)

    @rule(action=st.sampled_from(["freeze", "thaw"]))
    def freeze(self, action: str) -> None:
        self.actor.types(f"{action} {FAMILY} --reason because")

    @rule(moment=moments, task=tasks)
    def arrives_and_is_killed(self, moment: int, task: str) -> None:
        self.actor.land(task, self.actor.another(task))
        self.actor.killed(moment, f"merge {FAMILY}")

    @rule(moment=moments, pick=picks, which=commanded)
    def killed(self, moment: int, pick: int, which: int) -> None:
        self.actor.killed(moment, self._command(which, pick))

    @rule(moment=moments, pick=picks, which=commanded, also=commanded)
    def meanwhile(self, moment: int, pick: int, which: int, also: int) -> None:
        """Another process does something from beginning to end at some moment of a command."""
        act = self._command(also, pick)
        self.actor.at(moment, lambda _: str(self.actor.types(act)), self._command(which, pick))

    @rule(moment=moments, task=tasks, pick=picks, also=commanded)
    def arrives_meanwhile(self, moment: int, task: str, pick: int, also: int) -> None:
        self.actor.land(task, self.actor.another(task))
        act = self._command(also, pick)
        self.actor.at(moment, lambda _: str(self.actor.types(act)), f"merge {FAMILY}")

    @rule(moment=moments, task=tasks, seed=seeds)
    def lands_meanwhile(self, moment: int, task: str, seed: int) -> None:
        self.actor.at(moment, lambda _: self.actor.land(task, seed), f"merge {FAMILY}")

    @rule(pick=picks)
    def delete_expert_in_mlflow(self, pick: int) -> None:
        if expert := self.actor.expert(pick):
            expert.excused = "it was deleted in MLflow"
            self.actor.by_hand("delete_model_version", *expert.ref.split("/"))

    @precondition(lambda self: self.actor.has_versions())
    @rule(pick=picks)
    def delete_version_in_mlflow(self, pick: int) -> None:
        self.actor.by_hand("delete_model_version", FAMILY, str(self.actor.version(pick)))

    @rule(pick=picks, status=st.sampled_from(["waiting", "merged", "held", "rejected", "nonsense"]))
    def set_status_by_hand(self, pick: int, status: str) -> None:
        if expert := self.actor.expert(pick):
            expert.excused = "its status was set by hand"
            name, version = expert.ref.split("/")
            self.actor.by_hand("set_model_version_tag", name, version, "merge.status", status)

    @precondition(lambda self: self.actor.has_versions())
    @rule(pick=picks, alias=st.sampled_from(["champion", "previous"]))
    def point_alias_by_hand(self, pick: int, alias: str) -> None:
        version = str(self.actor.version(pick))
        self.actor.by_hand("set_registered_model_alias", FAMILY, alias, version)

    @rule(which=commanded, pick=picks)
    def mlflow_is_down(self, which: int, pick: int) -> None:
        self.actor.without_mlflow(self._command(which, pick))

    @precondition(lambda self: self.actor.past.count("restore") < 2 and not self.actor.broken)
    @rule(
        folder=st.sampled_from(["uploads", f"{FAMILY}/attempts", f"{FAMILY}/merged"]),
        pick=st.integers(0, 1000),
        data=st.sampled_from([None, b"", b"{}", b"\x00" * 64]),
    )
    def damage(self, folder: str, pick: int, data: bytes | None) -> None:
        bucket = self.actor.queue.family.base_uri
        objects = self.actor.queue.store.list(type(bucket)(bucket.bucket, folder))
        if objects:
            self.actor.damage(objects[pick % len(objects)].uri, data)

    @precondition(lambda self: self.actor.broken)
    @rule()
    def restore(self) -> None:
        self.actor.restore()

    def _command(self, which: int, pick: int) -> str:
        expert = self.actor.expert(pick)
        version = self.actor.version(pick)
        command = commands(version, expert.ref if expert else f"{FAMILY}-food/1")[which]
        if command.startswith("approve"):
            self.actor.approved.add(version)
        if command.startswith(("rollback", "release", "withdraw")):
            self.actor.excuse("there was a rollback, a release or a withdrawal")
        return command


@pytest.fixture
def queues(_world: World) -> type[Queue]:
    return type("Queues", (Queue,), {"world": _world})


def run(queues: type[Queue], count: int) -> None:
    run_state_machine_as_test(
        queues,
        settings=settings(
            max_examples=count,
            stateful_step_count=STEPS,
            deadline=None,
            phases=(Phase.generate, *((Phase.shrink,) if "CHAOS_SHRINK" in os.environ else ())),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=True,
        ),
    )


@pytest.mark.parametrize("part", PARTS)
def test_whatever_happens_in_any_order_the_log_is_true_and_the_queue_comes_to_rest(
    queues,
    table,
    part,  # noqa: ARG001 - parts run side by side
):
    TOTAL.clear()
    run(queues, QUEUES)
    table("steps in any order", QUEUES * STEPS, "the log is true, and every queue comes to rest")
    for what, count in sorted(TOTAL.items()):
        table(f"of which: {what}", count, "likewise")
