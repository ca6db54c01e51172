from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from merging.errors import InvalidInput
from merging.experts.examples import split_examples
from merging.kinds import ModelKind

KIND = ModelKind.TEXT_CLASSIFIER
LABELS = ("no", "yes")


def table(count: int = 200) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"row {i}" for i in range(count)], "label": [LABELS[i % 2] for i in range(count)]}
    )


def test_a_row_always_falls_on_the_same_side() -> None:
    all_rows = split_examples(table(), KIND, LABELS)
    reordered = split_examples(table().iloc[::-1], KIND, LABELS)
    assert all_rows == reordered
    fewer = split_examples(table(100), KIND, LABELS)
    assert set(fewer.gate.keys) <= set(all_rows.gate.keys)


def test_the_sides_have_no_row_in_common_even_if_the_table_repeats_one() -> None:
    rows = table(10)
    rows["split"] = "gate"
    again = rows.assign(split="calibration")
    split = split_examples(pd.concat([rows, again]), KIND, LABELS)
    assert not set(split.gate.keys) & set(split.calibration.keys)
    assert len(split.gate) == 10


def test_of_an_expert_that_was_merged_already_numbers_are_the_indices_that_they_were() -> None:
    rows = pd.DataFrame({"text": ["a", "b", "c", "d"], "label": [1, 2, 1, 7], "split": "gate"})
    stars = ("1", "2", "3", "4", "5")
    with pytest.raises(InvalidInput, match="expected every label to"):
        split_examples(rows, KIND, stars)
    gate = split_examples(rows, KIND, stars, settled=True).gate
    by_text = dict(zip(gate.inputs, gate.targets, strict=True))
    assert by_text == {"a": 1, "b": 2, "c": 1}, "what is no class at all is left out"


def test_labels_come_by_name_or_index() -> None:
    by_index = table().assign(label=[i % 2 for i in range(200)])
    assert split_examples(by_index, KIND, LABELS) == split_examples(table(), KIND, LABELS)


def test_unlabelled_rows_may_calibrate_but_not_gate() -> None:
    rows = table(4).assign(split="calibration", label=[None, "yes", None, "no"])
    assert split_examples(rows, KIND, LABELS).calibration.targets.count(None) == 2
    with pytest.raises(
        InvalidInput, match="every gate example to have a target, found none in row 1 "
    ):
        split_examples(rows.assign(split="gate"), KIND, LABELS)


@pytest.mark.parametrize(
    "change",
    [
        {"label": "maybe"},
        {"label": 7},
        {"label": 0.5},
        {"text": ""},
        {"text": 3},
        {"split": "test"},
        {"text": pd.Series(["half of a pair \ud800"] * 3, dtype=object)},
        {"text_pair": 3},
        {"text": pd.NA},
        {"split": pd.NA},
        {"label": pd.Series([np.array([0, 1])] * 3)},
        {"text": pd.Series([np.array(["a", "b"])] * 3)},
        {"split": pd.Series([np.array(["gate", "gate"])] * 3)},
    ],
)
def test_a_wrong_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        split_examples(table(3).astype(object).assign(**change), KIND, LABELS)
