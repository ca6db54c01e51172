"""What an audit finds."""

from __future__ import annotations

import json

import pytest
from inline_snapshot import snapshot

from infra.storage.store import S3Uri
from tests.stories.world import FAMILY


def test_an_audit_of_what_is_well(deployed):
    assert deployed.types("audit reviews") == snapshot("""\
> ✓ version 1: every file has the recorded digest
> ✓ it answers as it did when it was judged
> ✓ rebuilding it from base, experts and coefficients gives the same bytes
> ✓ its scores are those of the decision
> ✓ aliases and tags agree with the promotion log\
""")


@pytest.mark.family(merge={"granularity": "tensor", "write_dtype": "bfloat16"})
def test_a_model_written_in_another_dtype_is_built_again_in_that(queue, monkeypatch):
    monkeypatch.setattr("merging.preflight.rounding.WORTH_SAYING", 1e-9)
    queue.land("weather", 90)
    queue.sweep()
    assert "gives the same bytes" in queue.types("audit reviews")
    folder = S3Uri.parse(queue.queue.promotions.newest().location)
    report = json.loads(queue.queue.store.read(folder / "report" / "report.json"))
    assert report["settings"]["write_dtype"] == report["precision"]["dtype"] == "bfloat16"
    assert 0 < report["precision"]["lost"] < 1
    assert report["facts"]["precision"].startswith("written in bfloat16, ")
    assert "rounded to bfloat16" in report["members"][0]["remarks"][0]


def test_an_audit_before_the_first_promotion(queue):
    assert queue.types("audit reviews") == snapshot("""\
log: nothing is deployed yet
> ✓ Nothing is deployed yet.\
""")


def test_an_audit_tells_all_that_differs_and_changes_nothing(two):
    two.point("champion", 1)
    two.tag(FAMILY, 2, "merge.manifest-sha256", "0" * 64)
    assert two.types("audit reviews") == snapshot("""\
notice audit-failed: reviews: audit failed: The alias champion points to 1, but version 2 is
    deployed.
The manifest digest on version 2 was changed.
> Audit of reviews: The alias champion points to 1, but version 2 is deployed. The manifest
    digest on version 2 was changed.\
""")


def test_an_audit_finds_a_changed_file(deployed):
    deployed.change("reviews/1", "heads/weather/config.json", "good", "bad")
    assert deployed.types("audit reviews") == snapshot("""\
notice audit-failed: reviews: audit failed: s3://models/reviews/merged/SHA256: expected the
    recorded files, found differences in ['heads/weather/config.json']. Restore them from the
    bucket's older versions, or build a new candidate.
> Audit of reviews: 〃\
""")


def test_an_audit_finds_other_answers(deployed):
    deployed.scores("weather", weather=80)
    assert deployed.types("audit reviews") == snapshot("""\
notice audit-failed: reviews: audit failed: weather: judged at 0.9000, now 0.8000.
> Audit of reviews: weather: judged at 0.9000, now 0.8000.\
""")


def test_what_differs_because_something_was_promoted_meanwhile_is_no_finding(two, monkeypatch):
    def meanwhile(*_: object) -> tuple[str, ...]:
        monkeypatch.undo()
        two.types("rollback reviews")
        return ("The alias champion points to 2, but version 1 is deployed.",)

    monkeypatch.setattr("flows.audit.check_mirror", meanwhile)
    assert "version 1: every file has the recorded digest" in two.types("audit reviews")
