"""The table of states has a story for each of its rows; the stories hold themselves to it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from infra.registry.tags import ExpertStatus, MergedStatus
from tests.stories.states import check_transitions, read_rows
from tests.stories.watch import Transition

STATUSES = {"expert": get_args(ExpertStatus), "merged version": get_args(MergedStatus)}


def test_every_row_names_a_story_that_there_is():
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [row for row in read_rows() if f"def {row.story}(" not in text] == []


@pytest.mark.parametrize("kind", STATUSES)
def test_every_status_is_reached_by_some_row_and_no_other(kind):
    rows = [row for row in read_rows() if row.kind == kind]
    assert {row.after for row in rows} == set(STATUSES[kind])
    assert {row.before for row in rows} == {"–", *STATUSES[kind]}


def test_a_transition_that_the_table_lacks_fails_its_story():
    with pytest.raises(AssertionError, match="lacks"):
        check_transitions("a story", [Transition("expert", "merged", "rejected", "Because.")])


def test_a_reason_in_other_words_than_the_table_fails_its_story():
    with pytest.raises(AssertionError, match="lacks"):
        check_transitions("a story", [Transition("expert", "held", "waiting", "Let go.")])


def test_a_story_that_does_not_show_its_row_fails():
    with pytest.raises(AssertionError, match="not shown"):
        check_transitions("test_an_approval_promotes", [])
