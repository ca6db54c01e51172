"""What people want of an expert: that it replaces a better-looking one, another name, that it comes first."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from tests.stories.test_withdraw import tasks


def test_a_worse_looking_expert_that_is_wanted_goes_to_a_person(two):
    two.land("weather", 80, seed=1)
    two.tag("reviews-weather", 2, "merge.wanted", "The old labels were wrong.")
    assert "needs review: Wanted by a person, by merge.wanted in MLflow" in " ".join(
        two.sweep().split()
    )
    assert "needs a reason" in " ".join(two.types("approve reviews 3").split())
    assert "Promoted (3)" in two.types("approve reviews 3 --reason 'Checked by hand.'")


def test_a_wish_excuses_nothing_on_the_other_tasks_and_holds_nobody_back(two):
    two.land("weather", 80, seed=1)
    two.tag("reviews-weather", 2, "merge.wanted", "The old labels were wrong.")
    two.land("sport", 90)
    two.scores("weather", "sport", food=60)
    two.sweep()
    assert two.queue.promotions.newest().version == 2
    assert two.queue.registry.experts.get("reviews-weather", 2).status in ("rejected", "merging")


def test_a_rejected_expert_is_released_as_wanted(two):
    two.land("weather", 80, seed=1)
    assert "weather: bounced" in two.sweep()
    two.types("release reviews-weather/2 --wanted 'The old labels were wrong.'")
    assert "Wanted by ada: The old labels were wrong." in " ".join(two.sweep().split())


def test_a_task_is_renamed_in_one_merge(two):
    assert two.types("rename reviews-food/1 meals") == snapshot("""\
meals/1: – → waiting
> reviews-meals/1 is waiting; it takes the place of reviews-food/1.\
""")
    assert "promoted" in two.sweep()
    assert tasks(two) == ("meals", "weather")
    assert (
        two.queue.registry.experts.get("reviews-food", 1).reason == "Replaced by reviews-meals/1."
    )
    assert "No expert is waiting" in two.sweep()


@pytest.mark.family(promotion="review")
def test_a_renamed_task_waits_for_review_as_any_other(two):
    two.types("rename reviews-food/1 meals")
    assert "waits for review" in two.sweep()
    assert "waits for review" in two.sweep()
    assert "Promoted (3)" in two.types("approve reviews 3")
    assert tasks(two) == ("meals", "weather")


def test_what_is_urgent_is_merged_first_and_by_itself(deployed):
    deployed.land("food", 90)
    deployed.land("sport", 90)
    deployed.types("prioritise reviews-sport/1 5")
    seen = deployed.sweep()
    assert seen.index("relearn of sport: passed") < seen.index("relearn of food: passed")
    assert [entry.version for entry in deployed.queue.promotions.entries()] == [1, 2, 3]


def test_tags_that_are_set_one_after_the_other_are_waited_for(deployed):
    deployed.land("food", 90)
    deployed.tag("reviews-food", 1, "merge.task", "Two Words")
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
food/1 (waiting): Waits for its tag merge.task to be corrected: expected lower-case letters,
    digits and hyphens ([a-z0-9][a-z0-9-]{0,62}), found 'Two Words'.
log: no expert is waiting
> No expert is waiting.\
""")
    deployed.tag("reviews-food", 1, "merge.task", "")
    assert deployed.sweep() == snapshot("""\
food/1 (waiting): Waits for its tag merge.task: the name of its task.
log: no expert is waiting
> No expert is waiting.\
""")
    deployed.tag("reviews-food", 1, "merge.task", "food")
    assert "food: promoted" in deployed.sweep()


def test_another_base_does_not_take_the_place_of_one_with_deployed_models(deployed, tmp_path):
    base = deployed.queue.family.base_uri
    folder = tmp_path / "base"
    folder.mkdir()
    for item in deployed.queue.store.list(base):
        deployed.queue.store.download(item.uri, folder / item.path)
    assert "is at s3://models" in " ".join(deployed.types(f"upload-base reviews {folder}").split())
    (folder / "vocab.txt").write_text("other\n")
    refused = " ".join(deployed.types(f"upload-base reviews {folder}").split())
    assert "this is another one. Nothing was uploaded." in refused


def test_a_task_whose_model_would_have_the_name_of_a_family_is_refused(deployed, tmp_path):
    families = deployed.queue.settings.families_dir
    other = (families / "reviews.yaml").read_text().replace("name: reviews", "name: reviews-food")
    (families / "reviews-food.yaml").write_text(other)
    refused = " ".join(deployed.types(f"register reviews food {tmp_path}").split())
    assert "the name of the merged models of family 'reviews-food'" in refused
    assert "the name of the merged models" in " ".join(
        deployed.types("rename reviews-weather/1 food").split()
    )
