"""MLflow is down, or its database is lost: the log and the object store are enough."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from infra.storage.store import S3Uri

COMMANDS = ("history reviews", "diff reviews 1 2", "pull reviews STORY")


@pytest.mark.parametrize("how", ["down", "lost"])
def test_history_diff_pull_and_rollback_need_no_mlflow(two, how, tmp_path):
    def answers() -> list[str]:
        return [
            two.types(command.replace("STORY", str(tmp_path / f"{which}-{number}")))
            for number, command in enumerate(COMMANDS)
        ]

    which = "with"
    before = answers()
    if how == "lost":
        two.mlflow_is_lost()
        which = "without"
        assert answers()[:2] == before[:2]
        two.types("rollback reviews")
    else:
        with two.mlflow_is_down():
            which = "without"
            assert answers()[:2] == before[:2]
            two.types("rollback reviews")
    pulled = tmp_path / "without-2"
    assert (pulled / "manifest.json").read_bytes() == (
        tmp_path / "with-2/manifest.json"
    ).read_bytes()
    assert two.queue.promotions.newest().version == 1


def test_a_decision_that_cannot_be_read_is_named_below_the_history(two):
    key = two.queue.promotions.entries()[0].model.key
    two.queue.store.write(S3Uri("models", f"reviews/attempts/{key}.json"), b"{}")
    seen = two.types("history reviews")
    assert "food 0.900" in seen
    assert "expected what was decided on a build" in seen


def test_an_mlflow_that_counts_anew_takes_nobody_for_somebody_else(two):
    """Its first versions have the numbers of others in the log."""
    two.mlflow_is_lost()
    two.land("food", 95, seed=7)
    two.land("sport", 90)
    assert two.sweep() == snapshot("""\
food/1: – → waiting
sport/1: – → waiting
log: the alias champion cannot be set: version 2 of reviews is gone from MLflow
log: the alias previous cannot be set: version 1 of reviews is gone from MLflow
log: MLflow has no version of reviews; where its database was lost: supermerge rebuild reviews
food/1: waiting → merging
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food, sport: passed
version 1: – → candidate
version 2: – → candidate
version 3: – → candidate
log: the alias previous cannot be set: version 2 of reviews is gone from MLflow
champion is version 3
version 3: candidate → promoted: Merges food, sport; the gate passed on every task.
food/1: merging → merged: Merged in version 3.
sport/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> food, sport: promoted. 〃\
""")
    assert [entry.version for entry in two.queue.promotions.entries()] == [1, 2, 3]
    assert two.types("rollback reviews") == snapshot("""\
log: the alias champion cannot be set: version 2 of reviews is gone from MLflow
log: the alias previous cannot be set: version 1 of reviews is gone from MLflow
version 3: promoted → rolled-back: Rolled back by version 2 (promotion 4).
food/1: merged → held: Replaced by reviews-food/1.
sport/1: merged → held: Not in the deployed version 2 any more: Rolled back from version 3. To
    merge it again: supermerge release reviews-sport/1
notice rolled-back: reviews is back at version 2: Rolled back from version 3.
> Version 2 is deployed (promotion 4).\
""")
