"""Outcomes refuse what the gate could misread."""

from __future__ import annotations

import numpy as np
import pytest

from merging.errors import InvalidInput
from merging.models.outcomes import Outcomes


def test_classes_and_texts_are_compared_example_by_example():
    assert Outcomes(("a", "b"), (1, 0), (1, 1)).correct.tolist() == [True, False]
    texts = Outcomes(("a", "b"), (" yes\n", "No"), ("yes", "no"))
    assert texts.correct.tolist() == [True, False]
    assert texts.accuracy == 0.5


@pytest.mark.parametrize(
    "columns",
    [
        (("a", "b"), (1,), (1, 1)),
        (("a", "a"), (1, 1), (1, 1)),
        (("a",), (float("nan"),), (1,)),
        (("a",), (1,), (None,)),
        (("a",), ("1",), (1,)),
        (("a",), (True,), (1,)),
        (("a",), (np.int64(1),), (1,)),
    ],
)
def test_what_could_be_misread_is_refused(columns):
    with pytest.raises(InvalidInput):
        Outcomes(*columns)


def test_outcomes_survive_json():
    outcomes = Outcomes(("a", "b"), ("ä", "b"), ("ä", "c"))
    assert Outcomes.from_json(outcomes.to_json()) == outcomes


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 1, "predicted": [], "targets": []}'])
def test_a_document_that_is_not_outcomes_is_refused(text):
    with pytest.raises(InvalidInput):
        Outcomes.from_json(text)
