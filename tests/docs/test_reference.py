"""docs/reference.md says what the code reads, and says something about every part of it."""

from __future__ import annotations

import pytest

from docs.reference import PAGE, commands, described, page
from infra.families import Family, Target
from infra.settings import Settings
from merging.gate import GatePolicy
from merging.settings import MergeSettings


def test_the_page_is_what_the_code_says_now():
    assert PAGE.read_text() == page(), "run `make docs` and commit what it writes"


@pytest.mark.parametrize("model", [Family, Target, MergeSettings, GatePolicy, Settings])
def test_every_field_is_described(model):
    assert set(model.model_fields) == set(described(model))


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_and_option_has_help(name):
    command = commands()[name]
    assert command.help
    assert all(getattr(item, "help", None) for item in command.params)
