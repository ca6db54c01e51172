"""The contracts hold on good tables, and fail closed on everything that could slip through."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from infra.contracts import check_examples, check_gate_report, data_docs
from merging.gate import GatePolicy, GateReport
from merging.gate.decision import decide
from merging.kinds import ModelKind
from tests.merging.gate.chosen_answers import task_scores
from tests.merging.pictures import encoded

POLICY = GatePolicy(minimum_examples=90)
LABELS = ("bad", "good")


def reviews(**columns) -> pd.DataFrame:
    table = pd.DataFrame({"text": [f"review {i}" for i in range(300)]})
    table["label"] = [LABELS[i % 2] for i in range(300)]
    table["split"] = ["calibration"] * 100 + ["gate"] * 200
    return table.assign(**columns)


def check(table, kind=ModelKind.TEXT_CLASSIFIER, labels=LABELS, policy=POLICY, **options):
    return check_examples(table, kind, labels, policy, **options)


def broken(result) -> str:
    assert not result.passed
    return " ".join(result.sentences)


def changed(column, row, value):
    table = reviews()
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    return table


def test_a_good_table_passes_without_a_warning():
    result = check(reviews())
    assert result.passed
    assert result.sentences == ()
    assert result.warnings == ()
    assert result.rules == len(result.raw["results"]) >= 12
    assert json.loads(result.to_json())["passed"] is True


def test_labels_may_be_names_or_indices_and_the_split_may_be_missing():
    table = reviews(label=[i % 2 for i in range(300)]).drop(columns="split")
    assert check(table).passed


def test_unlabelled_calibration_rows_are_allowed():
    assert check(changed("label", list(range(50)), None)).passed


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (reviews().drop(columns="label"), "must have the columns text and label"),
        (reviews().iloc[:0], "must have 1 to 1,000,000 rows"),
        (pd.DataFrame(), "must have the columns"),
        (changed("text", 4, "  "), "1 to 100,000 characters, but 1 of 300 rows does not"),
        (changed("text", 4, None), "1 of 300 rows does not (no value; row 5)"),
        (changed("text", 4, float("nan")), "1 of 300 rows does not (no value; row 5)"),
        (changed("text", 4, 17), "(a value of type int; row 5)"),
        (changed("text", 4, "a\ud800"), "half of a character pair (U+D800) at character 2; row 5"),
        (reviews(text=None), "characters, but 300 of 300 rows"),
        (changed("text", 4, "x" * 100_001), "(100,001 characters; row 5)"),
        (reviews(text_pair=3), "(a pair of a text and a value of type int; rows 1, 2, 3)"),
        (changed("label", 7, "fine"), "'fine'; row 8"),
        (changed("label", 7, 2), "one of the expert's 2"),
        (changed("label", 7, 0.5), "one of the expert's 2"),
        (changed("label", 7, -1), "one of the expert's 2"),
        (changed("label", 200, None), "Every gate example must have a target"),
        (changed("label", 200, float("nan")), "Every gate example must have a target"),
        (reviews(split="gate"), "at least 8 different calibration examples"),
        (reviews(split="calibration"), "gate example"),
        (changed("split", 3, "test"), "'test'; row 4"),
        (changed("split", 3, None), "Every value of split"),
        (
            changed("text", 250, "review 3"),
            "on one side of the split only, but 2 of 300 rows do not (rows 4, 251)",
        ),
        (reviews().iloc[:150], "at least 90 different gate examples, but found 50"),
    ],
)
def test_a_broken_table_is_refused_in_a_sentence(table, sentence):
    result = check(table)
    assert sentence in broken(result)
    assert all(line.endswith(".") for line in result.sentences)


def test_repeated_rows_do_not_count_towards_the_minimum():
    table = reviews(text=["same"] * 100 + [f"gate {i % 40}" for i in range(200)])
    text = broken(check(table))
    assert "8 different calibration examples, but found 1" in text
    assert "90 different gate examples, but found 40" in text


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (changed("text", 4, "review 3"), "should be there once"),
        (changed("text", 4, "review 3"), "should always have the same target"),
        (reviews(label=["good"] * 100 + ["bad"] * 200), "Every class should occur"),
        (reviews(label=["bad"] * 299 + ["good"]), "more than 90% of the rows"),
        (reviews().iloc[60:], "at least 64 different calibration examples"),
    ],
)
def test_what_should_be_but_need_not_is_a_warning(table, sentence):
    result = check(table)
    assert result.passed
    assert sentence in " ".join(result.warnings)


def test_too_few_gate_examples_only_warn_where_a_person_decides():
    policy = GatePolicy(minimum_examples=90, inconclusive="review")
    result = check(reviews().iloc[:150], policy=policy)
    assert result.passed
    assert "gate examples" in result.warnings[0]


def test_numbers_that_are_names_of_other_classes_are_refused_with_both_readings():
    stars = ("1", "2", "3", "4", "5")
    table = reviews(label=[i % 5 + 1 for i in range(300)])
    assert (
        "Every label must have one meaning, but 240 of 300 rows do not (1 is the name of class 0 "
        "and the index of '2', 2 is the name of class 1 and the index of '3', 3 is the name of "
        "class 2 and the index of '4'; rows 1, 2, 3). Write every label as text"
    ) in broken(check(table, labels=stars))
    assert check(table.assign(label=table["label"].map(str)), labels=stars).passed


def test_label_names_that_look_the_same_are_a_warning():
    result = check(reviews(), labels=(*LABELS, "Good "))
    assert "differ by more than case and space, but found 'good' and 'Good '" in result.warnings[-1]


def test_every_image_is_decoded_and_what_is_unusual_is_a_warning():
    images: list[object] = [encoded(size=i + 1) for i in range(300)]
    table = pd.DataFrame({"image": images, "label": [i % 2 for i in range(300)]}, dtype=object)
    table["split"] = ["calibration"] * 100 + ["gate"] * 200
    table.loc[3, "image"] = encoded("RGBA")
    result = check(table, ModelKind.IMAGE_CLASSIFIER)
    assert result.passed
    assert result.warnings == (
        "Every image should be one picture without transparency, but 1 of 300 rows does not "
        "(transparent parts; row 4). The first frame is taken, and the colours that lie under "
        "transparent parts, as transformers does; make sure that the expert was trained so.",
    )
    table.loc[5, "image"] = encoded("RGB", "JPEG", size=64)[:-200]
    table.loc[7, "image"] = b"<svg/>"
    table.loc[9, "image"] = "no file"
    text = broken(check(table, ModelKind.IMAGE_CLASSIFIER))
    assert "Every image must be readable, but 3 of 300 rows do not (it is damaged" in text
    assert "it is none of PNG" in text
    assert "a value of type str; rows 6, 8, 10" in text


def test_generation_needs_texts_on_both_ends():
    table = reviews().rename(columns={"text": "input", "label": "target"})
    assert check(table, ModelKind.GENERATOR, ()).passed
    table["target"] = table["target"].astype(object)
    table.loc[200, "target"] = 5
    assert "Every target must be a text" in broken(check(table, ModelKind.GENERATOR, ()))


def test_data_docs_say_of_every_rule_what_it_asks_for_and_found():
    table = changed("label", 7, "fine")
    table.loc[250, "text"] = "review 3"
    result = check(table)
    sections = data_docs(result)
    rules = [rule for section in sections for rule in section.rules]
    assert len(rules) == result.rules
    broken = [rule.expectation for rule in rules if not rule.holds]
    assert len(broken) == len(result.sentences) + len(result.warnings)
    assert any("rows with the same key must have one side" in text for text in broken)
    assert any("fine" in text for text in broken)
    assert not any("review 7" in str(section) for section in sections), "no text of the table"


def test_the_same_table_gives_the_same_record():
    assert check(reviews()).to_json() == check(reviews()).to_json()


def report(candidate: int = 345) -> GateReport:
    scores = [
        task_scores(name, role, 250, 350, candidate, champion, n=400)
        for name, role, champion in (("reviews", "old", 346), ("tweets", "new", 260))
    ]
    return decide(GatePolicy(), scores)


def without(good: GateReport, **changes) -> GateReport:
    """A report whose first row was changed behind the gate's back."""
    first = good.tasks[0].model_copy(update=changes)
    return good.model_copy(update={"tasks": (first, *good.tasks[1:])})


def test_a_gate_report_that_passed_holds_up():
    assert report().verdict == "passed"
    result = check_gate_report(report(), ["reviews", "tweets"])
    assert result.passed, result.sentences


def test_a_gate_report_that_failed_is_whole_too():
    failed = report(candidate=250)
    assert failed.verdict == "failed"
    assert check_gate_report(failed, ["reviews", "tweets"]).passed


@pytest.mark.parametrize(
    "tasks", [["reviews"], ["reviews", "tweets", "icd10"], ["reviews", "x"], []]
)
def test_the_tasks_must_be_exactly_the_expected_ones(tasks):
    assert not check_gate_report(report(), tasks).passed


def test_a_report_without_tasks_does_not_hold():
    empty = decide(GatePolicy(), [])
    assert not check_gate_report(empty, ["reviews"]).passed
    assert not check_gate_report(empty, []).passed


@pytest.mark.parametrize(
    "changes",
    [
        {"difference_lower": -0.2},
        {"difference_lower": None},
        {"difference_lower": float("nan")},
        {"difference_lower": float("inf")},
        {"retention": 0.1},
        {"retention": None},
        {"gain": -0.01},
        {"gain": None},
        {"role": "new", "gain_lower": -0.01},
        {"role": "new", "gain_lower": None},
        {"champion": None},
        {"candidate": None},
        {"margin": float("nan")},
        {"confidence": 0.5},
        {"verdict": "inconclusive"},
        {"examples": 0},
        {"negative_flips": ()},
        {"task": "tweets"},
    ],
)
def test_a_pass_that_its_numbers_do_not_bear_out_is_refused(changes):
    result = check_gate_report(without(report(), **changes), ["reviews", "tweets"])
    assert not result.passed
    assert all(line.endswith(".") for line in result.sentences)
