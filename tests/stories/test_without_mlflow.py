"""MLflow is down, or its database is lost: the log and the object store are enough."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot
from mlflow import MlflowClient

from infra.storage.store import S3Uri
from tests.stories.world import FAMILY

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


def registry() -> dict[str, object]:
    """Every version with its tags, and every alias, as MLflow has them."""
    client = MlflowClient()
    found: dict[str, object] = {
        f"{v.name}/{v.version}": (v.source, v.tags)
        for v in client.search_model_versions(max_results=1000)
    }
    for model in client.search_registered_models():
        found |= {f"{model.name}@{alias}": int(to) for alias, to in model.aliases.items()}
    return found


@pytest.fixture
def eventful(candidate):
    """One expert is deployed, one waits for review, one was rejected and one is held."""
    candidate.land("sport", 50)
    candidate.land("music", 90)
    candidate.land("music", 90, seed=1)
    candidate.sweep()
    return candidate


@pytest.mark.family(promotion="review")
def test_rebuild_makes_everything_again_and_all_goes_on(eventful):
    before = registry()
    eventful.mlflow_is_lost()
    assert eventful.types("rebuild reviews") == snapshot("""\
food/1: – → merging: Waits for review of version 3: set its tag approval_status to approved or
    rejected.
log: made again: reviews-food/1
music/1: – → held: reviews-music/2 was registered later for the same task.
log: made again: reviews-music/1
music/2: – → merging: 〃
log: made again: reviews-music/2
sport/1: – → rejected: Nothing was merged. sport: the expert scores 50.0 % where the base with
    the expert's own head scores 50.0 % (0.0 points): fine-tuning brought nothing that a merge
    could keep. Check the labels of its examples and its training, then register a better
    expert.
log: made again: reviews-sport/1
weather/1: – → merged: Merged in version 1.
log: made again: reviews-weather/1
version 1: – → promoted: Merges weather; the gate passed on every task.
log: made again: version 1
version 2: – → superseded: Version 3 merges newer experts.
log: made again: version 2
version 3: – → candidate
log: made again: version 3
champion is version 1
> Made again: reviews-food/1
> Made again: reviews-music/1
> Made again: reviews-music/2
> Made again: reviews-sport/1
> Made again: reviews-weather/1
> Made again: version 1
> Made again: version 2
> Made again: version 3\
""")
    assert registry() == before
    assert "MLflow has all that there is" in eventful.types("rebuild reviews")
    eventful.land("news", 90)
    assert "news: waits for review" in eventful.sweep()
    number = max(v.version for v in eventful.queue.registry.merged.of(FAMILY))
    assert "Promoted (2)" in eventful.types(f"approve reviews {number}")
    assert "gives the same bytes" in eventful.types("audit reviews")


@pytest.mark.family(promotion="review")
def test_a_rebuild_that_is_killed_is_finished_by_the_next(eventful):
    before = registry()
    eventful.mlflow_is_lost()
    eventful.dies_once_before_each_task()
    while "killed before" in eventful.types("rebuild reviews"):
        pass
    assert registry() == before


def test_a_bucket_from_before_pages_were_kept_is_enough_for_what_was_deployed(two):
    before = registry()
    for item in two.queue.store.list(S3Uri("models", "reviews/pages")):
        two.queue.store.delete(item.uri)
    two.mlflow_is_lost()
    two.types("rebuild reviews")
    assert registry() == before


def test_a_rebuild_after_others_took_the_numbers_gives_new_ones_and_the_log_finds_them(two):
    two.mlflow_is_lost()
    two.land("food", 95, seed=7)
    two.land("sport", 90)
    two.sweep()
    two.types("rebuild reviews")
    experts = {e.ref: e.status for e in two.queue.registry.experts.of(FAMILY)}
    assert experts == {
        "reviews-food/1": "merged",
        "reviews-food/2": "held",
        "reviews-sport/1": "merged",
        "reviews-weather/1": "merged",
    }
    two.types("rollback reviews")
    pages = {v.version: v.status for v in two.queue.registry.merged.of(FAMILY)}
    assert pages == {3: "rolled-back", 4: "superseded", 5: "promoted"}
    assert two.queue.registry.merged.aliases(FAMILY) == {"champion": 5, "previous": 4}
    assert two.queue.registry.experts.get("reviews-food", 2).status == "merged"
