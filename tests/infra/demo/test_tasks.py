from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.demo.tasks import TASKS, draw, split_by_group
from infra.names import check_task

SIZES = {"gate": 30, "calibration": 10, "train": 40}


def _rows(num_groups: int = 40, group_size: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (f"text {group} {row}", "abc"[group % 3], f"group {group}")
            for group in range(num_groups)
            for row in range(group_size)
        ],
        columns=pd.Index(["text", "label", "group"]),
    )


def test_no_text_and_no_group_stands_on_two_sides() -> None:
    rows = _rows()
    split = split_by_group(rows, SIZES).merge(rows, on="text")
    assert len(split) == split["text"].nunique()
    assert (split.groupby("group")["split"].nunique() == 1).all()


def test_each_side_has_its_size_and_every_label() -> None:
    split = split_by_group(_rows(), SIZES)
    for side, wanted in SIZES.items():
        rows = split[split["split"] == side]
        assert wanted <= len(rows) < wanted + 3
        assert set(rows["label"]) == {"a", "b", "c"}


@given(st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_the_split_depends_on_the_rows_and_not_on_their_order(random) -> None:
    rows = _rows()
    order = list(range(len(rows)))
    random.shuffle(order)
    expected = split_by_group(draw(rows, per_group=2), SIZES)
    found = split_by_group(draw(rows.iloc[order], per_group=2), SIZES)
    pd.testing.assert_frame_equal(found, expected)


def test_repeated_empty_and_ambiguous_texts_are_left_out() -> None:
    texts = [("x", "a"), ("x", "a"), ("y", "a"), ("y", "b"), ("", "a"), ("z", "b")]
    rows = pd.DataFrame(texts, columns=pd.Index(["text", "label"])).assign(group="g")
    assert sorted(draw(rows)["text"]) == ["x", "z"]


def test_no_more_rows_are_drawn_than_asked_for() -> None:
    rows = _rows()
    assert (draw(rows, per_group=2).groupby("group").size() == 2).all()
    assert (draw(rows, per_label=5).groupby("label").size() == 5).all()


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_has_a_name_that_the_queue_accepts(task) -> None:
    assert check_task(task.name) == task.name
