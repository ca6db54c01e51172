"""Review mode: candidates that wait for a person, and every refusal."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture
def candidate(review_queue, expert, land):
    """A first candidate that waits for review."""
    from flows.continual_merge import continual_merge

    land(review_queue, "weather", expert("weather"))
    (outcome,) = continual_merge(review_queue.name)
    assert outcome.verdict == "waits for review", outcome.reason
    return review_queue.registry.merged.get(review_queue.name, outcome.version)


def decide(queue, version, decision):
    """What a person does in the MLflow page, and the flow that it starts."""
    from flows.promote import promote

    client = queue.registry.client
    client.set_model_version_tag(queue.name, str(version.version), "approval_status", decision)
    return promote(queue.name, version.version)


def reread(queue, version):
    return queue.registry.merged.get(queue.name, version.version)


def test_a_candidate_waits_and_is_promoted_once_approved(review_queue, candidate):
    from flows.continual_merge import continual_merge

    assert review_queue.promotions.newest() is None
    assert candidate.tags.validation == "passed"
    (again,) = continual_merge(review_queue.name)
    assert again.version == candidate.version, "a further sweep finds the same candidate"

    words = decide(review_queue, candidate, "approved")

    assert words.startswith("Promoted")
    assert review_queue.promotions.newest().version == candidate.version
    assert reread(review_queue, candidate).status == "promoted"
    assert reread(review_queue, candidate).tags.review == words
    assert continual_merge(review_queue.name) == ()


def test_an_approval_whose_webhook_was_lost_is_found_by_the_sweep(review_queue, candidate):
    from flows.continual_merge import continual_merge

    client = review_queue.registry.client
    # set where no webhook can see it: the receiver acts on events, the sweep on what is there
    client.set_model_version_tag(
        review_queue.name, str(candidate.version), "approval_status", "approved"
    )
    continual_merge(review_queue.name)

    assert review_queue.promotions.newest().version == candidate.version


def test_a_rejection_settles_the_expert_for_good(review_queue, candidate):
    from flows.continual_merge import continual_merge

    words = decide(review_queue, candidate, "rejected")

    assert words.startswith("Rejected")
    assert review_queue.promotions.newest() is None
    assert reread(review_queue, candidate).status == "rejected"
    assert continual_merge(review_queue.name) == ()

    second = decide(review_queue, candidate, "approved")
    assert second.startswith("Refused")
    assert review_queue.promotions.newest() is None


def test_a_newer_expert_supersedes_the_pending_candidate(review_queue, candidate, expert, land):
    from flows.continual_merge import continual_merge

    land(review_queue, "food", expert("food"))
    (outcome,) = continual_merge(review_queue.name)

    assert outcome.version > candidate.version
    assert set(outcome.tasks) == {"weather", "food"}
    assert reread(review_queue, candidate).status == "superseded"
    assert decide(review_queue, candidate, "approved").startswith("Refused")
    assert review_queue.promotions.newest() is None


def test_a_stale_candidate_is_refused(review_queue, candidate):
    from datetime import UTC, datetime

    review_queue.promotions.append(
        None,
        version=candidate.version,
        location=candidate.source,
        manifest_sha256=candidate.manifest_sha256,
        action="promote",
        decided_by="another run",
        reason="meanwhile",
        run_id="another",
        time=datetime.now(UTC),
    )
    from flows.delivery import promote_candidate
    from infra.errors import Refused

    with pytest.raises(Refused, match="the deployed model has changed"):
        promote_candidate(review_queue, candidate, "a person", "approved")


def test_a_candidate_whose_files_changed_is_refused(review_queue, candidate):
    review_queue.store.write(candidate.location / "heads/weather/config.json", b"{}")

    words = decide(review_queue, candidate, "approved")

    assert words.startswith("Refused")
    assert "config.json" in words
    assert review_queue.promotions.newest() is None


def test_a_candidate_that_did_not_pass_cannot_be_approved(review_queue, candidate):
    client = review_queue.registry.client
    client.set_model_version_tag(
        review_queue.name, str(candidate.version), "validation_status", "failed"
    )

    words = decide(review_queue, candidate, "approved")

    assert words.startswith("Refused")
    assert review_queue.promotions.newest() is None


def test_an_unknown_decision_is_refused_in_words(review_queue, candidate):
    assert "approved, rejected" in decide(review_queue, candidate, "ok")
    assert reread(review_queue, candidate).status == "candidate"
