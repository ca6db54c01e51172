"""Every error carries its facts, and its message ends with what to do."""

from __future__ import annotations

import pytest

from infra.errors import Conflict, Corrupt, Refused, Unavailable, Unreadable
from merging.errors import (
    InvalidInput,
    MergeQueueError,
    NonFinite,
    NotEnoughMemory,
    NotReproduced,
)
from merging.preflight.mismatch import Mismatch
from tasks.preflight import IncompatibleExpert


@pytest.mark.parametrize("kind", [InvalidInput, NonFinite, NotEnoughMemory, NotReproduced, Corrupt])
def test_a_discrepancy_says_where_what_and_what_to_do(kind):
    facts = {"where": "a file", "expected": "one", "found": "two", "remedy": "Mend it."}
    error = kind(**facts)
    assert vars(error) == facts
    assert str(error) == "a file: expected one, found two. Mend it."


@pytest.mark.parametrize("kind", [Refused, Unavailable, Unreadable])
def test_a_refusal_says_why_and_what_to_do(kind):
    error = kind("It is late.", "Come earlier.")
    assert vars(error) == {"reason": "It is late.", "remedy": "Come earlier."}
    assert str(error) == "It is late. Come earlier."
    assert str(kind("It says:\nno", "Ask again.")).endswith("no\nAsk again.")


def test_a_conflict_names_the_object_that_two_wanted():
    assert Conflict("s3://b/1.json").where == "s3://b/1.json"


def test_an_incompatible_expert_lists_every_mismatch():
    mismatches = [Mismatch("a.weight", "shape [2]", "shape [3]"), Mismatch("b.weight", "x", "y")]
    error = IncompatibleExpert("f-a/1", mismatches, "Train it again.")
    assert error.mismatches == tuple(mismatches)
    assert "a.weight: expected shape [2], found shape [3]" in str(error)
    assert str(error).endswith("Train it again.")


def test_all_have_one_base():
    for kind in (
        InvalidInput,
        Corrupt,
        Refused,
        Unavailable,
        Unreadable,
        Conflict,
        IncompatibleExpert,
    ):
        assert issubclass(kind, MergeQueueError)
