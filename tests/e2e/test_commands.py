"""The commands that people type, on the real stack."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from infra.cli import app, output

pytestmark = pytest.mark.e2e


class Typed:
    """What a command printed, spaces and line ends made one, and its exit status.

    Output before errors: Prefect's log, which goes to the latter, may come in between.
    """

    def __init__(self, *words: object) -> None:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.status = result.exit_code
        self.text = " ".join(f"{result.stdout} {result.stderr}".split())


@pytest.fixture(autouse=True)
def person(monkeypatch: pytest.MonkeyPatch) -> str:
    """Who types, before a wide terminal."""
    monkeypatch.setenv("LOGNAME", "ada")
    for console in (output.console, output.errors):
        monkeypatch.setattr(console, "_width", 400)
    return "ada"


@pytest.fixture
def candidate(review_queue, expert, land):
    """A first candidate that waits for review, and its expert."""
    landed = land(review_queue, "weather", expert("weather"))
    merged = Typed("merge", review_queue.name)
    assert "weather: waits for review" in merged.text
    (version,) = review_queue.registry.merged.of(review_queue.name)
    return version, landed


def reread(queue, version):
    return queue.registry.merged.get(queue.name, version.version)


def test_approve_promotes_and_records_who_and_why_and_a_second_decision_is_refused(
    review_queue, candidate
):
    version, landed = candidate
    approved = Typed("approve", review_queue.name, version.version, "--reason", "Reads well.")

    assert approved.status == 0
    assert approved.text.startswith("Promoted (1)")
    assert "decided by ada" in approved.text
    entry = review_queue.promotions.newest()
    assert (entry.decided_by, entry.reason) == ("ada", "Reads well.")
    assert review_queue.registry.merged.aliases(review_queue.name) == {"champion": version.version}
    tags = reread(review_queue, version).tags
    assert (tags.decided_by, tags.review_reason) == ("ada", "Reads well.")
    assert review_queue.registry.experts.get(landed.name, landed.version).status == "merged"

    for decision in ("reject", "approve"):
        second = Typed(decision, review_queue.name, version.version, "--reason", "Changed my mind.")
        assert second.status == 1
        assert "is promoted, so it cannot be" in second.text
    assert reread(review_queue, version).tags == tags, "a refused decision leaves nothing behind"
    assert review_queue.promotions.newest() == entry


def test_reject_settles_the_expert_until_it_is_released(review_queue, candidate):
    version, landed = candidate
    rejected = Typed("reject", review_queue.name, version.version, "--reason", "Odd flips")

    assert rejected.status == 0
    words = f"Rejected in review of version {version.version} by ada: Odd flips."
    assert words in rejected.text
    explained = Typed("explain", landed.ref)
    assert explained.text.startswith(f"{landed.ref} (weather): rejected {words}")
    assert review_queue.promotions.newest() is None

    assert "is waiting again" in Typed("release", landed.ref).text
    twice = Typed("release", landed.ref)
    assert twice.status == 1
    assert "only a held or rejected expert can be released" in twice.text

    Typed("merge", review_queue.name)
    (second,) = [
        v for v in review_queue.registry.merged.of(review_queue.name) if v.status == "candidate"
    ]
    assert second.version > version.version, "the decision on the first is final"
    assert Typed("approve", review_queue.name, second.version).status == 0


def test_promote_carries_out_what_the_tag_says_and_refuses_without_it(review_queue, candidate):
    version, _ = candidate
    early = Typed("promote", review_queue.name, version.version)
    assert early.status == 1
    assert early.text.startswith("Refused: approval_status is ''. Set it to one of: approved")
    client = review_queue.registry.client
    client.set_model_version_tag(
        review_queue.name, str(version.version), "approval_status", "approved"
    )

    done = Typed("promote", review_queue.name, version.version)

    assert done.status == 0
    assert "decided by a person, by approval_status in MLflow" in done.text
    assert review_queue.promotions.newest().version == version.version


def test_history_diff_rollback_and_release_tell_and_undo_what_happened(queue, expert, land):
    land(queue, "weather", expert("weather"))
    assert "weather: promoted" in Typed("merge", queue.name).text
    food = land(queue, "food", expert("food"))
    assert "food: promoted" in Typed("merge", queue.name).text

    history = Typed("history", queue.name).text
    assert history.count("policy: auto") == 2
    assert re.search(r"weather [01]\.\d{3}", history)
    assert re.search(r"food [01]\.\d{3}", history)
    diff = Typed("diff", queue.name, 1, 2).text
    assert f"– → {food.ref}" in diff
    assert f"{queue.name}-weather/1" in diff

    nowhere = Typed("rollback", queue.name, "--to", 7)
    assert nowhere.status == 1
    assert "Version 7 cannot be gone back to" in nowhere.text
    back = Typed("rollback", queue.name, "--reason", "trying it out")
    assert back.text.startswith("Version 1 is deployed (promotion 3).")
    history = Typed("history", queue.name).text
    assert "rollback" in history
    assert "ada" in history
    assert "trying it out" in history
    assert "held" in Typed("explain", food.ref).text
    assert "is waiting again" in Typed("release", food.ref).text


def test_explain_tells_the_numbers_and_what_to_try(queue, expert, land):
    assert "No expert is waiting" in Typed("merge", queue.name).text
    bad = land(queue, "food", expert("food", shuffled=True))
    assert "food: bounced" in Typed("merge", queue.name).text

    explained = Typed("explain", bad.ref)

    assert f"{bad.ref} (food): rejected" in explained.text
    assert "the expert scores" in explained.text
    assert "register a better expert" in explained.text.replace("Register", "register")
    unknown = Typed("explain", f"{bad.name}/9")
    assert unknown.status == 1
    assert "no such version" in unknown.text
    assert Typed("explain", "nonsense").status == 1
