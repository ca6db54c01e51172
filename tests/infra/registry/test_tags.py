"""Tags are read whatever they say, and written only where they differ."""

from __future__ import annotations

import pytest

from infra.registry.tags import CandidateTags, ExpertTags

WRITTEN = {
    "validation_status": "passed",
    "merge.manifest-sha256": "abc",
    "merge.champion-at-build": "3",
    "merge.experts": "food=demo-food/1, weather=demo-weather/2",
    "merge.arrivals": "food, weather",
    "merge.rung": "relearn",
    "merge.status": "candidate",
}


def test_what_is_written_is_read_back_and_written_the_same():
    tags = CandidateTags.read(WRITTEN)

    assert (tags.status, tags.validation, tags.approval) == ("candidate", "passed", None)
    assert tags.champion_at_build == 3
    assert tags.experts == {"food": "demo-food/1", "weather": "demo-weather/2"}
    assert tags.arrivals == ("food", "weather")
    assert not tags.malformed
    assert tags.write() == WRITTEN
    assert CandidateTags.read({"merge.champion-at-build": "none"}).champion_at_build == "none"


@pytest.mark.parametrize(
    ("tag", "value", "field"),
    [
        ("approval_status", "ok", "approval"),
        ("validation_status", "probably", "validation"),
        ("merge.status", "live", "status"),
        ("merge.champion-at-build", "the last one", "champion_at_build"),
        ("merge.experts", "food, weather", "experts"),
    ],
)
def test_a_malformed_tag_is_a_fact_and_spoils_no_other(tag, value, field):
    tags = CandidateTags.read({**WRITTEN, tag: value})

    assert tags.malformed == {tag: value}
    assert not getattr(tags, field)
    others = {name: text for name, text in WRITTEN.items() if name != tag}
    assert tags.write() == others


@pytest.mark.parametrize("value", ["approved", "Approved", " approved ", "APPROVED\n"])
def test_people_may_write_a_decision_in_their_own_way(value):
    assert CandidateTags.read({"approval_status": value}).approval == "approved"


def test_a_decision_that_nobody_understands_is_a_decision_all_the_same():
    assert CandidateTags.read({"approval_status": "ok"}).is_reviewed
    assert not CandidateTags.read(WRITTEN).is_reviewed


def test_an_expert_waits_unless_its_status_says_otherwise():
    assert ExpertTags.read({}).status == "waiting"
    assert ExpertTags.read({"merge.status": ""}).status == "waiting"
    assert ExpertTags.read({"merge.status": "Merged"}).status == "merged"
    assert ExpertTags.read({"merge.status": "mergd"}).status is None


def test_what_others_keep_on_a_version_is_left_alone():
    tags = ExpertTags.read({"owner": "ada", "malformed": "x", "merge.from-the-future": "y"})
    assert tags == ExpertTags(status="waiting")


def test_changes_are_what_differs_with_the_status_last():
    tags = ExpertTags.read({"merge.status": "merging", "merge.report": "http://page"})

    assert list(tags.changes(status="rejected", reason="Worse.", report="").items()) == [
        ("merge.reason", "Worse."),
        ("merge.report", None),
        ("merge.status", "rejected"),
    ]
    assert tags.changes(status="merging", report="http://page") == {}


def test_a_malformed_status_is_replaced():
    assert ExpertTags.read({"merge.status": "mergd"}).changes(status="held") == {
        "merge.status": "held"
    }


def test_a_reason_that_fits_no_tag_keeps_its_end_and_is_not_written_twice():
    reason = "x" * 100_000 + "Train it again."
    written = ExpertTags().changes(reason=reason)

    assert len(written["merge.reason"]) < 8_100
    assert written["merge.reason"].endswith("Train it again.")
    assert ExpertTags.read(written).changes(reason=reason) == {}
