"""The queue's promises, against the real embedded stack with tiny real models."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from tests.e2e import tiny

pytestmark = pytest.mark.e2e


def wait_until_settled(queue, expert, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = queue.registry.experts.get(expert.name, expert.version)
        if found.status in ("merged", "rejected", "held"):
            return found
        time.sleep(1)
    pytest.fail(f"{expert.ref} is still {found.status}: {found.reason}")


def snapshot(queue):
    """All that a bounced expert must leave alone."""
    return (
        [entry.model_dump() for entry in queue.promotions.entries()],
        queue.registry.merged.aliases(queue.name),
        [version.version for version in queue.registry.merged.of(queue.name)],
    )


def ask(queue, task):
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(f"models:/{queue.name}@champion")
    texts = ["bada rain storm kibo", "bada sun warm kibo"]
    return [answer["scores"] for answer in model.predict({"task": task, "inputs": texts})]


def test_an_expert_registered_through_mlflow_alone_is_promoted(served_queue, expert, land):
    landed = land(served_queue, "weather", expert("weather"))

    settled = wait_until_settled(served_queue, landed)

    assert settled.status == "merged", settled.reason
    newest = served_queue.promotions.newest()
    assert (newest.sequence, newest.action) == (1, "promote")
    assert served_queue.registry.merged.aliases(served_queue.name) == {"champion": newest.version}
    wet, dry = ask(served_queue, "weather")
    assert wet["side-0"] > 0.5 > dry["side-0"]


@pytest.mark.parametrize(
    ("kind", "write"),
    [("image-classifier", tiny.write_image_classifier), ("generator", tiny.write_generator)],
)
def test_experts_of_the_other_kinds_are_promoted_and_answer(kind, write, stack, land, tmp_path):
    import mlflow.pyfunc

    from flows.continual_merge import continual_merge
    from infra.queue import MergeQueue
    from tasks.upload import upload_base

    write(tmp_path / "base", tmp_path / "expert")
    queue = MergeQueue.open(kind, stack)
    upload_base(queue, tmp_path / "base")
    land(queue, "task", tmp_path / "expert")
    (promoted,) = continual_merge(kind)

    assert promoted.verdict == "promoted", promoted.reason
    table = pd.read_parquet(tmp_path / "expert/examples.parquet")
    model = mlflow.pyfunc.load_model(f"models:/{kind}@champion")
    inputs = table[queue.family.kind.input_column].tolist()
    answers = [
        a.get("text", a.get("label")) for a in model.predict({"task": "task", "inputs": inputs})
    ]
    targets = table[queue.family.kind.target_column]
    expected = targets if kind == "generator" else targets.map({0: "below", 1: "above"})
    assert sum(a == b for a, b in zip(answers, expected, strict=True)) > len(table) / 2


def test_the_same_content_registered_again_changes_nothing(queue, expert, land):
    from flows.continual_merge import continual_merge

    land(queue, "weather", expert("weather"))
    (promoted,) = continual_merge(queue.name)
    assert promoted.verdict == "promoted", promoted.reason
    before = snapshot(queue)

    again = land(queue, "weather", expert("weather"))
    assert continual_merge(queue.name) == ()

    assert snapshot(queue) == before
    settled = queue.registry.experts.get(again.name, again.version)
    assert settled.status == "merged"
    assert "Same content" in settled.reason
    assert continual_merge(queue.name) == (), "and a further sweep finds nothing to do"


def test_a_bounced_expert_leaves_champion_log_and_aliases_untouched(queue, expert, land):
    from flows.continual_merge import continual_merge

    land(queue, "weather", expert("weather"))
    continual_merge(queue.name)
    before = snapshot(queue)

    bad = land(queue, "food", expert("food", shuffled=True))
    (bounced,) = continual_merge(queue.name)

    assert bounced.verdict == "bounced"
    assert snapshot(queue) == before
    settled = queue.registry.experts.get(bad.name, bad.version)
    assert settled.status == "rejected"
    assert "base" in settled.reason
    assert continual_merge(queue.name) == (), "a bounced expert is not tried again"


def test_one_bad_expert_does_not_hold_back_the_others(queue, expert, land):
    from flows.continual_merge import continual_merge

    land(queue, "weather", expert("weather"))
    land(queue, "sport", expert("sport", shuffled=True))
    land(queue, "food", expert("food"))

    outcomes = {outcome.tasks: outcome.verdict for outcome in continual_merge(queue.name)}

    assert outcomes == {("sport",): "bounced", ("weather", "food"): "promoted"}


def test_rollback_brings_the_earlier_answers_back_and_holds_the_expert(queue, expert, land):
    from flows.continual_merge import continual_merge
    from flows.rollback import rollback

    land(queue, "weather", expert("weather"))
    continual_merge(queue.name)
    first = queue.promotions.newest()
    answers = ask(queue, "weather")
    food = land(queue, "food", expert("food"))
    (promoted,) = continual_merge(queue.name)
    assert promoted.verdict == "promoted", promoted.reason
    assert ask(queue, "weather") != answers

    entry = rollback(queue.name, reason="trying it out")

    assert (entry.action, entry.version) == ("rollback", first.version)
    assert ask(queue, "weather") == answers
    assert queue.registry.merged.aliases(queue.name) == {"champion": first.version}
    held = queue.registry.experts.get(food.name, food.version)
    assert held.status == "held"
    assert "release" in held.reason
    assert continual_merge(queue.name) == (), "a held expert does not return by itself"
    assert queue.promotions.newest() == entry

    queue.registry.experts.settle(held, "waiting", "Released.")
    (again,) = continual_merge(queue.name)
    assert again.verdict == "promoted", "released, it is merged once more"


def test_an_audit_passes_and_then_finds_a_changed_file(queue, expert, land):
    from flows.audit import AuditFailed, audit
    from flows.continual_merge import continual_merge
    from infra.storage.store import S3Uri

    land(queue, "weather", expert("weather"))
    continual_merge(queue.name)
    assert len(audit(queue.name)) == 5

    location = S3Uri.parse(queue.promotions.newest().location)
    queue.store.write(location / "heads/weather/config.json", b"{}")

    with pytest.raises(AuditFailed, match=r"heads/weather/config\.json"):
        audit(queue.name)
