"""Experts that are refused or put aside, and how people hear of it."""

from __future__ import annotations

from inline_snapshot import snapshot

from infra.storage.store import S3Uri


def test_an_expert_no_better_than_its_base_is_rejected_before_anything_is_learned(deployed):
    deployed.land("food", 49)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
log: reviews: food bounced: Nothing was merged. food: the expert scores 49.0 % where the base
    with the expert's own head scores 50.0 % (−1.0 points): fine-tuning brought nothing that a
    merge could keep. Check the labels of its examples and its training, then register a better
    expert.
notice bounced: reviews: food bounced: Nothing was merged. food: the expert scores 49.0 % where
    the base with the expert's own head scores 50.0 % (−1.0 points): fine-tuning brought nothing
    that a merge could keep. Check the labels of its examples and its training, then register a
    better expert.
food/1: waiting → rejected: 〃
> food: bounced. 〃\
""")
    assert deployed.types("explain reviews-food/1") == snapshot("""\
> reviews-food/1 (food): rejected
> Nothing was merged. food: the expert scores 49.0 % where the base with the expert's own head
    scores 50.0 % (−1.0 points): fine-tuning brought nothing that a merge could keep. Check the
    labels of its examples and its training, then register a better expert.\
""")


def test_an_expert_too_little_better_to_tell_is_rejected(deployed):
    deployed.land("food", 52)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
log: reviews: food bounced: Nothing was merged. food: the expert scores 52.0 % where the
    commonest answer, given every time, scores 50.0 %; with 95.0 % confidence it is not shown to
    be better than that. Check the labels of its examples and its training, then register a
    better expert.
notice bounced: reviews: food bounced: Nothing was merged. food: the expert scores 52.0 % where
    the commonest answer, given every time, scores 50.0 %; with 95.0 % confidence it is not
    shown to be better than that. Check the labels of its examples and its training, then
    register a better expert.
food/1: waiting → rejected: 〃
> food: bounced. 〃\
""")


def test_only_an_expert_that_there_is_can_be_explained(deployed):
    assert deployed.types("explain reviews-weather/1") == snapshot("""\
> reviews-weather/1 (weather): merged
> Merged in version 1.\
""")
    assert deployed.types("explain reviews-weather/9") == snapshot("""\
> MLFLOW: expected version 9 of the registered model 'reviews-weather', found no such version.
    Look at the model's page for the versions there are.\
""")
    assert deployed.types("explain nonsense") == snapshot(
        "> expert: expected NAME/VERSION, found 'nonsense'. `supermerge status FAMILY` lists them."
    )


def test_a_table_is_refused_with_every_broken_rule_and_its_rows(deployed):
    deployed.land("food", 90)
    deployed.change(
        "reviews-food/1", "examples.jsonl", '70", "label": "bad"', '70", "label": "fair"'
    )
    deployed.change(
        "reviews-food/1",
        "examples.jsonl",
        '80", "label": "bad", "split": "gate"',
        '80", "label": "bad", "split": "train"',
    )
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
log: reviews: food bounced: examples of reviews-food/1: expected a table that keeps the data
    contract, found Every label must be one of the expert's 2 (bad, good), but 4 of 464 rows do
    not ('fair'; rows 71, 171, 271). Use the names in the expert's id2label, or their indices.
    Every value of split must be calibration or gate, but 4 of 464 rows do not ('train'; rows
    81, 181, 281). Correct the column, or drop it to have the rows split by their content.
    Correct the table and register the expert again.
notice bounced: reviews: food bounced: examples of reviews-food/1: expected a table that keeps
    the data contract, found Every label must be one of the expert's 2 (bad, good), but 4 of 464
    rows do not ('fair'; rows 71, 171, 271). Use the names in the expert's id2label, or their
    indices. Every value of split must be calibration or gate, but 4 of 464 rows do not
    ('train'; rows 81, 181, 281). Correct the column, or drop it to have the rows split by their
    content. Correct the table and register the expert again.
food/1: waiting → rejected: 〃
> food: bounced. 〃\
""")


def test_a_table_with_too_few_examples_is_refused(deployed):
    deployed.land("food", 90, gate=20)
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
log: reviews: food bounced: examples of reviews-food/1: expected a table that keeps the data
    contract, found There must be at least 100 different gate examples, but found 20. Add
    examples of the task. Correct the table and register the expert again.
notice bounced: reviews: food bounced: examples of reviews-food/1: expected a table that keeps
    the data contract, found There must be at least 100 different gate examples, but found 20.
    Add examples of the task. Correct the table and register the expert again.
food/1: waiting → rejected: 〃
> food: bounced. 〃\
""")


def test_an_expert_of_another_base_is_refused_with_what_differs(deployed):
    deployed.land("food", 90)
    deployed.change("reviews-food/1", "config.json", '"hidden_size": 8', '"hidden_size": 16')
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
log: reviews: food bounced: reviews-food/1 does not fit its base:
  config.hidden_size: expected 8, found 16
The base's weights answer otherwise with this setting, or do not fit it: fine-tune the expert
    with the base's, or correct its config.json if it was trained with that.
notice bounced: reviews: food bounced: reviews-food/1 does not fit its base:
  config.hidden_size: expected 8, found 16
The base's weights answer otherwise with this setting, or do not fit it: fine-tune the expert
    with the base's, or correct its config.json if it was trained with that.
food/1: waiting → rejected: 〃
> food: bounced. reviews-food/1 does not fit its base:
> config.hidden_size: expected 8, found 16
> The base's weights answer otherwise with this setting, or do not fit it: fine-tune the expert
    with the base's, or correct its config.json if it was trained with that.\
""")


def test_what_is_no_expert_is_refused_and_nothing_is_downloaded(deployed):
    deployed.register("food", S3Uri("models", "nowhere"))
    deployed.register("sport", S3Uri("elsewhere", "expert"))
    deployed.register("Two Words", S3Uri("models", "expert"))
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
sport/1: – → waiting
Two Words/1: – → waiting
Two Words/1 (waiting): Waits for its tag merge.task to be corrected: expected lower-case
    letters, digits and hyphens ([a-z0-9][a-z0-9-]{0,62}), found 'Two Words'.
log: reviews: food bounced: source of reviews-food/1: expected the files of an expert, found
    nothing below s3://models/nowhere. Register it again with `supermerge register`.
notice bounced: reviews: food bounced: source of reviews-food/1: expected the files of an
    expert, found nothing below s3://models/nowhere. Register it again with `supermerge
    register`.
food/1: waiting → rejected: 〃
log: reviews: sport bounced: source of reviews-sport/1: expected one of the family's buckets:
    models, found s3://elsewhere/expert. Copy the expert there, or add the bucket to
    `expert_buckets`.
notice bounced: reviews: sport bounced: source of reviews-sport/1: expected one of the family's
    buckets: models, found s3://elsewhere/expert. Copy the expert there, or add the bucket to
    `expert_buckets`.
sport/1: waiting → rejected: 〃
> food: bounced. 〃
> sport: bounced. 〃\
""")


def test_what_nobody_foresaw_is_held_and_the_others_go_on(deployed):
    deployed.land("food", 90)
    deployed.land("sport", 90)
    deployed.given.unreadable.add("food")
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
sport/1: – → waiting
log: Looking at it failed: reviews-food/1
log: reviews: food held: Looking at it failed: ValueError: operands could not be broadcast
    together. The flow run has the traceback. Mend the cause, then: supermerge release
    reviews-food/1
notice held: reviews: food held: Looking at it failed: ValueError: operands could not be
    broadcast together. The flow run has the traceback. Mend the cause, then: supermerge release
    reviews-food/1
food/1: waiting → held: 〃
sport/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of sport: passed
version 2: – → candidate
champion is version 2
previous is version 1
version 1: promoted → superseded: Followed by version 2 (promotion 2).
version 2: candidate → promoted: Merges sport; the gate passed on every task.
sport/1: merging → merged: Merged in version 2.
notice promoted: reviews version 2 is deployed: 〃
log: reviews version 2 is deployed: 〃
> food: held. 〃
> sport: promoted. 〃\
""")
    deployed.given.unreadable.clear()
    assert deployed.types("release reviews-food/1") == snapshot("""\
food/1: held → waiting: Released.
> reviews-food/1 is waiting again; the next merge takes it.\
""")
    assert deployed.sweep() == snapshot("""\
food/1: waiting → merging
Prefect shows reviews-relearn-decision, reviews-relearn-scores, reviews-relearn-report
log: relearn of food: passed
version 3: – → candidate
champion is version 3
previous is version 2
version 2: promoted → superseded: Followed by version 3 (promotion 3).
version 3: candidate → promoted: Merges food; the gate passed on every task.
food/1: merging → merged: Merged in version 3.
notice promoted: reviews version 3 is deployed: 〃
log: reviews version 3 is deployed: 〃
> food: promoted. 〃\
""")


def test_a_status_that_is_none_is_held(deployed):
    deployed.land("food", 90)
    deployed.tag("reviews-food", 1, "merge.status", "wating")
    assert deployed.sweep() == snapshot("""\
food/1: – → waiting
notice unseen: reviews-food/1 waits for somebody to look at it: Its tag merge.status says
    'wating'; expected was something else.
food/1: waiting → held: Its tag merge.status says 'wating', which is no status. To merge it:
    supermerge release reviews-food/1
log: no expert is waiting
> No expert is waiting.\
""")
    assert deployed.types("release reviews-food/1") == snapshot("""\
food/1: held → waiting: Released.
> reviews-food/1 is waiting again; the next merge takes it.\
""")


def test_a_release_really_tries_again(deployed):
    """Not only the words of the decision before: everything is decided anew."""
    deployed.land("food", 90)
    deployed.scores("food", weather=20, food=20)
    deployed.sweep()
    before = set(deployed.queue.store.list(S3Uri("models", "reviews/attempts")))
    deployed.types("release reviews-food/1")
    deployed.sweep()
    assert len(set(deployed.queue.store.list(S3Uri("models", "reviews/attempts"))) - before) == 1
