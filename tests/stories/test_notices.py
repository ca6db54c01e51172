"""One notice for one event; none is lost, and people hear of what nobody would ever look at."""

from __future__ import annotations

from datetime import timedelta

import pytest
from inline_snapshot import snapshot

from infra.storage.store import S3Uri
from tasks import unseen
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


def test_a_bounce_is_told_once_whenever_the_run_died_with_it(deployed):
    deployed.land("food", 49)
    seen = ""
    for task in ("notify", "settle_expert", None):
        if task:
            kill_before(deployed, task)
        seen += deployed.sweep()
    assert seen.count("notice bounced: reviews: food bounced") == 1
    assert deployed.queue.registry.experts.get("reviews-food", 1).status == "rejected"


def test_a_rollback_and_a_freeze_are_told_of_though_the_command_died(two):
    assert notices(two.types("freeze reviews --reason 'an incident'")) == snapshot(
        ["reviews is frozen at version 2"]
    )
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


def test_what_nobody_would_ever_look_at_is_told_once_and_goes_on_when_corrected(
    deployed, monkeypatch
):
    for task in ("food", "sport"):
        deployed.land(task, 90)
    deployed.tag("reviews-food", 1, "merge.family", "revews")
    deployed.tag("reviews-sport", 1, "merge.family", "")
    assert notices(deployed.sweep()) == [], "people may still be setting tags"
    monkeypatch.setattr(unseen, "PATIENCE", timedelta(0))
    told = deployed.sweep()
    assert told == snapshot("""\
notice unseen: reviews-sport/1 waits for somebody to look at it: Its tag merge.family is
    missing, so nobody looks at it. Families: reviews.
sport/1 (waiting): 〃
notice unseen: reviews-food/1 waits for somebody to look at it: Its tag merge.family says
    'revews', of which there is no file here. Correct it (reviews), or write the file.
food/1 (waiting): 〃
log: no expert is waiting
> No expert is waiting.\
""")
    assert notices(deployed.sweep()) == []
    for task in ("food", "sport"):
        deployed.tag(f"reviews-{task}", 1, "merge.family", "reviews")
    assert "food, sport: promoted" in deployed.sweep()


def test_a_tag_that_says_what_it_cannot_say_is_told_once(two):
    two.tag("reviews-food", 1, "merge.withdraw", "yes please")
    assert two.sweep() == snapshot("""\
food/1 (merged): Its tag merge.withdraw says 'yes please'; expected was true or false.
notice unseen: reviews-food/1 waits for somebody to look at it: 〃
log: no expert is waiting
> No expert is waiting.\
""")
    assert notices(two.sweep()) == []


def test_a_copy_of_a_version_does_not_have_its_status(two):
    two.copy("reviews-food/1", "reviews-copied")
    assert two.sweep() == snapshot("""\
copied/1 (waiting): Same content as reviews-food/1, which is deployed.
> No expert is waiting.\
""")
    two.types("rollback reviews")
    two.types("release reviews-copied/1")
    assert "food: promoted" in two.sweep()
