"""What an audit finds."""

from __future__ import annotations

import json
import os

import pytest
from inline_snapshot import snapshot

from infra.storage.store import S3Uri
from tests.stories.world import FAMILY


def seen(queue) -> str:
    """What an audit says, in one line."""
    return " ".join(queue.types("audit reviews").split())


def test_an_audit_of_what_is_well(deployed):
    assert deployed.types("audit reviews") == snapshot("""\
> ✓ version 1: every file has the recorded digest
> ✓ it answers as it did when it was judged
> ✓ rebuilding it from base, experts and coefficients gives the same bytes
> ✓ its scores are those of the decision
> ✓ aliases and tags in MLflow are those that the queue wrote
> ✓ the log is whole from promotion 1 to 1, and all that it names is there\
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
The tag merge.manifest-sha256 of reviews/2 says 'SHA256', but the queue wrote 'SHA256'.
supermerge rebuild reviews makes them right.
> Audit of reviews: The alias champion points to 1, but version 2 is deployed. The tag
    merge.manifest-sha256 of reviews/2 says 'SHA256', but the queue wrote 'SHA256'. supermerge
    rebuild reviews makes them right.\
""")


def test_an_audit_knows_every_tag_that_the_queue_writes_and_a_rebuild_writes_it_again(two):
    tags = [("reviews", 1, "merge.reason"), ("reviews", 2, "merge.experts")]
    tags += [("reviews", 2, "validation_status"), ("reviews-food", 1, "merge.digest")]
    for name, version, tag in tags:
        two.tag(name, version, tag, "failed")
    two.point("previous", 2)
    findings = seen(two)
    assert all(f"{tag} of {name}/{version}" in findings for name, version, tag in tags)
    assert "The alias previous points to 2, but version 1 was deployed before." in findings
    two.types("rebuild reviews")
    assert "those that the queue wrote" in two.types("audit reviews")


def test_an_audit_reads_the_log_from_its_first_entry_and_what_could_be_gone_back_to(two):
    first = two.queue.promotions.entries()[0]
    two.queue.store.delete(first.model.location / "model" / "model.safetensors")
    assert "Version 1 cannot be gone back to" in seen(two)
    two.queue.store.write(S3Uri("models", "reviews/promotions/00000001.json"), b"{}")
    assert "expected a promotion" in seen(two)


def test_an_audit_goes_past_the_cache(deployed):
    """What a disk changes in the object store changes neither an object's size nor its tag there."""
    assert "gives the same bytes" in deployed.types("audit reviews")
    file = deployed.queue.settings.store_dir / "models/uploads/weather/weather-0-400/examples.jsonl"
    facts = file.stat()
    file.write_bytes(file.read_bytes().replace(b"good", b"fine", 1))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert "uploads/weather/weather-0-400/examples.jsonl: expected SHA-256" in seen(deployed)


@pytest.mark.parametrize("lost", ["down", "version"])
def test_an_audit_without_mlflow_names_that_and_checks_the_rest(two, lost):
    two.change("reviews/2", "heads/food/config.json", "good", "bad")
    if lost == "version":
        two.delete(f"{FAMILY}/1")
        found = seen(two)
        assert "Version 1 of reviews is gone from MLflow." in found
    else:
        with two.mlflow_is_down():
            found = seen(two)
        assert "connection refused" in found
    assert "found differences in ['heads/food/config.json']" in found


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
