"""A label is read as what it can only mean; what has two meanings is not read."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.errors import InvalidInput
from merging.experts.labels import check_names, read_labels, similar_names

STARS = ("1", "2", "3", "4", "5")
PLAIN = ("neg", "pos")
CODES = tuple(sorted(map(str, range(12))))  # as text: 0, 1, 10, 11, 2 …
NAN = float("nan")


def indices(values, names, **how):
    return [label.index for label in read_labels(values, names, **how)]


def ambiguous(values, names, **how):
    return [bool(label.ambiguous) for label in read_labels(values, names, **how)]


@pytest.mark.parametrize(
    "values",
    [
        [0, 1],
        [0.0, 1.0],
        ["0", "1"],
        ["0.0", "1.0"],
        ["neg", "pos"],
        ["neg", 1],
        [False, True],
        [np.False_, np.True_],
        np.array([0, 1], dtype=np.int8),
        np.array([0, 1], dtype=np.float32),
        [Decimal("0"), Decimal("1.00")],
        pd.array([0, 1], dtype="Int64"),
        pd.array([False, True], dtype="boolean"),
        pd.Categorical(["neg", "pos"]),
        pd.Categorical([0, 1]),
    ],
)
def test_a_name_or_an_index_of_any_type_is_its_class(values):
    assert indices(values, PLAIN) == [0, 1]


@pytest.mark.parametrize("nothing", [None, NAN, pd.NA, pd.NaT, np.float32("nan"), Decimal("nan")])
def test_an_empty_cell_has_no_label(nothing):
    (label,) = read_labels([nothing], PLAIN)
    assert (label.index, label.unknown, label.ambiguous) == (None, "", "")


@pytest.mark.parametrize(
    "value",
    [
        2,
        -1,
        0.5,
        "Pos",
        "neg ",
        "maybe",
        "",
        "2",
        "1e0",
        b"neg",
        [0],
        {},
        NAN * 1j,
        10**50,
        "9" * 60,
    ],
)
def test_anything_else_is_unknown(value):
    (label,) = read_labels([value], PLAIN)
    assert label.index is None
    assert label.unknown


def test_a_name_that_is_nearly_right_is_told_what_is_right():
    (label,) = read_labels(["Neg "], PLAIN)
    assert label.unknown == "'Neg ', which is written 'neg' there"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 2, 3, 4, 5], STARS),
        ([1, 2, 3], STARS),
        ([1.0, 2.0], STARS),
        (["1.0", "2.0"], STARS),
        (np.array([1, 2, 3]), STARS),
        (pd.array([1, 2, None], dtype="Int64"), STARS),
        (pd.Categorical([1, 2]), STARS),
        (list(range(12)), CODES),
        ([1], ("0.0", "2.0", "1.0")),
        ([False, True], ("True", "False")),
        ([True], ("yes", "no")),
        ([0, 5], STARS),  # an index and a name in one column
    ],
)
def test_a_number_that_is_the_name_of_one_class_and_the_index_of_another_is_not_read(values, names):
    assert any(ambiguous(values, names))
    for label in read_labels(values, names):
        assert label.index is None or not label.ambiguous


def test_both_readings_are_named():
    (label,) = read_labels([3], STARS)
    assert label.ambiguous == "3 is the name of class 2 and the index of '4'"


@pytest.mark.parametrize(
    ("values", "names", "classes"),
    [
        (["1", "2", "5"], STARS, [0, 1, 4]),  # text is a name where it can be
        ([5, 5], STARS, [4, 4]),  # no index
        ([0, 1, 2], ("0", "1", "2"), [0, 1, 2]),  # the same in both readings
        ([0, 1], ("10", "20"), [0, 1]),  # no names
        ([10, 20], ("10", "20"), [0, 1]),  # no indices
        (["10", "2"], CODES, [2, 4]),
        ([False, True], ("no", "yes"), [0, 1]),
        ([True], ("ham", "spam"), [1]),
        ([0.5, 0.25], ("0.25", "0.5"), [1, 0]),
    ],
)
def test_a_number_with_one_meaning_is_read(values, names, classes):
    assert indices(values, names) == classes


@pytest.mark.parametrize(
    ("values", "names", "classes"),
    [
        (["1", "2", "5"], STARS, [0, 1, 4]),  # 5 is no index, so all are names
        (["0", "1", "4"], STARS, [0, 1, 4]),  # 0 is no name, so all are indices
        (["1", "2", "other"], ("1", "2", "other"), [0, 1, 2]),
        (["neg", "1"], PLAIN, [0, 1]),
        (["1.0", "0.0", None], PLAIN, [1, 0, None]),
        (["True", "False"], PLAIN, [1, 0]),
        (["True", "False"], ("True", "False"), [0, 1]),
    ],
)
def test_in_csv_what_fits_the_whole_column_is_meant(values, names, classes):
    assert indices(values, names, as_written=True) == classes


@pytest.mark.parametrize(
    ("values", "names"), [(["1", "2"], STARS), ([str(i) for i in range(12)], CODES)]
)
def test_in_csv_what_fits_both_ways_is_not_read(values, names):
    assert any(ambiguous(values, names, as_written=True))


def test_the_table_s_own_class_names_make_every_number_an_index():
    assert indices([0, 1, 4], STARS, class_names=STARS) == [0, 1, 4]
    assert indices([1], PLAIN, class_names=PLAIN) == [1]


@pytest.mark.parametrize("names", [("pos", "neg", "pos"), ("a", "a")])
def test_two_classes_of_one_name_are_refused(names):
    with pytest.raises(InvalidInput, match="another name for every class"):
        check_names(names)
    with pytest.raises(InvalidInput, match="for classes 0 and"):
        read_labels([0], names)


def test_a_name_that_cannot_be_written_is_refused():
    with pytest.raises(InvalidInput, match="half of a character pair"):
        check_names(("good", "b\ud800d"))


def test_names_that_look_the_same_are_found():
    assert similar_names(("Good", "bad", "good ", "GOOD")) == [("Good", "good "), ("Good", "GOOD")]
    assert similar_names(PLAIN) == []


ANY = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.binary(max_size=3)
)
TEXT = st.characters(exclude_categories=["Cs"])
NAMES = st.lists(
    st.one_of(st.text(TEXT, max_size=3), st.integers(-1, 9).map(str)),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(st.lists(ANY, max_size=5), NAMES, st.booleans())
def test_every_cell_is_read_or_explained_or_empty(values, names, as_written):
    for value, label in zip(values, read_labels(values, names, as_written=as_written), strict=True):
        empty = value is None or (isinstance(value, float) and value != value)
        assert [label.index is not None, bool(label.unknown), bool(label.ambiguous)].count(
            True
        ) == (0 if empty else 1)


@given(NAMES, st.data())
def test_a_name_written_as_text_is_always_that_class(names, data):
    chosen = data.draw(st.lists(st.sampled_from(names)))
    assert indices(chosen, names) == [names.index(name) for name in chosen]
