"""One notice for one event; none is lost, and people hear of what nobody would ever look at."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from infra.storage.store import S3Uri
from tests.stories.tester import Killed


def notices(seen: str) -> list[str]:
    """The subjects of the notices among what was seen."""
    return [line.split(": ")[1] for line in seen.splitlines() if line.startswith("notice ")]


def kill_before(queue, task: str) -> None:
    """The next run is killed when it comes to this task."""

    def before(name: str) -> None:
        if name == task:
            queue.watch.before_task = str
            raise Killed(task)

    queue.watch.before_task = before


@pytest.mark.family(promotion="review")
def test_a_candidate_that_waits_is_told_of_once(deployed):
    deployed.land("food", 90)
    assert notices(deployed.sweep()) == ["reviews version 2 needs review"]
    for _ in range(3):
        assert notices(deployed.sweep()) == []
    deployed.land("sport", 90)
    assert notices(deployed.sweep()) == ["reviews version 3 needs review"]


def test_a_bounce_is_told_even_if_the_run_died_with_it(deployed):
    deployed.land("food", 49)
    for task in ("notify", "settle_expert"):
        kill_before(deployed, task)
        deployed.sweep()
    assert "reviews" in notices(deployed.sweep())
    assert deployed.queue.registry.experts.get("reviews-food", 1).status == "rejected"


def test_a_rollback_and_a_freeze_are_told_of_though_the_command_died(two):
    assert notices(two.types("freeze reviews --reason 'an incident'")) == snapshot()
    kill_before(two, "tell_of_log")
    two.types("rollback reviews")
    assert notices(two.sweep()) == ["reviews is back at version 1"]


def test_an_expert_held_and_one_bounced_are_told_apart_and_again_after_a_release(deployed):
    deployed.land("food", 90)
    deployed.given.unreadable.add("food")
    assert "notice held: reviews: food held" in deployed.sweep()
    deployed.types("release reviews-food/1")
    assert "notice held: reviews: food held" in deployed.sweep()
    deployed.given.unreadable.clear()
    deployed.land("sport", 49)
    assert "notice bounced: reviews: sport bounced" in deployed.sweep()


def test_a_run_that_fails_is_told_once_and_again_where_the_family_is_stuck(deployed):
    with deployed.mlflow_is_down():
        assert notices(deployed.sweep()) == snapshot(["reviews"])
        assert [notices(deployed.sweep()) for _ in range(4)] == snapshot(
            [[], [], ["reviews is stuck"], []]
        )
    assert notices(deployed.sweep()) == []
    with deployed.mlflow_is_down():
        assert notices(deployed.sweep()) == snapshot(["reviews"])


def test_runs_that_are_killed_are_told_of_by_the_next(deployed):
    deployed.land("food", 90)
    seen = []
    for _ in range(6):
        kill_before(deployed, "judge")
        seen.append(notices(deployed.sweep()))
    assert seen == snapshot([[], ["reviews"], [], [], ["reviews is stuck"], []])
    deployed.watch.before_task = str
    assert notices(deployed.sweep()) == ["reviews version 2 is deployed"]


def test_where_the_object_store_is_away_too_people_are_told_once(deployed, monkeypatch):
    from infra.errors import Unavailable
    from infra.storage.folder import FolderStore

    def away(*_: object) -> None:
        raise Unavailable("The object store does not answer.", "Start it.")

    with monkeypatch.context() as patch:
        for name in ("read", "write", "list", "exists"):
            patch.setattr(FolderStore, name, away)
        assert [len(notices(deployed.sweep())) for _ in range(3)] == [1, 0, 0]
    assert notices(deployed.sweep()) == []


def test_a_damaged_record_of_what_was_told_stops_nothing(two):
    two.queue.store.write(S3Uri("models", "reviews/notices.json"), b"{damaged")
    two.land("sport", 90)
    assert "promoted" in two.sweep()


def test_an_audit_that_goes_on_failing_is_told_once(two):
    two.tag("reviews", 2, "merge.manifest-sha256", "0" * 64)
    assert notices(two.types("audit reviews")) == ["reviews"]
    assert notices(two.types("audit reviews")) == []
