"""`supermerge check` says of a folder whether it would be merged, with no server there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.cli import app
from tests.stories.world import FAMILY, write_base, write_expert, write_family


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    write_family(folder / "families", "http://localhost/notices")
    write_expert(write_base(folder / "base"), folder / "food", seed=1, gate=400)
    return folder


@pytest.fixture
def check(made: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Types the command where no server is set up."""
    monkeypatch.setenv("SUPERMERGE_STATE_DIR", str(made / "state"))
    monkeypatch.setenv("SUPERMERGE_FAMILIES_DIR", str(made / "families"))

    def type_it(folder: Path, *more: str) -> Result:
        return CliRunner().invoke(app, ["check", FAMILY, str(folder), *more])

    return type_it


def test_a_good_folder_would_be_merged_and_nothing_is_kept_of_it(made, check):
    before = {path for path in made.rglob("*") if path.is_file()}

    result = check(made / "food", "--base", str(made / "base"))

    assert result.exit_code == 0, result.output
    assert "can be merged" in result.output
    assert "refused" not in result.output
    assert "Two logits differ by at most" in " ".join(result.output.replace("│", " ").split())
    assert {path for path in made.rglob("*") if path.is_file()} == before


def test_every_fault_of_a_folder_is_shown_and_the_status_is_one(made, check, tmp_path):
    folder = tmp_path / "spoilt"
    write_expert(made / "base", folder, seed=2, gate=20)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_act": "relu"}))

    result = check(folder, "--base", str(made / "base"))

    assert result.exit_code == 1
    assert result.output.count("refused") == 2
    shown = " ".join(result.output.replace("│", " ").split())
    assert "config.hidden_act: expected 'gelu', found 'relu'" in shown
    assert "at least 100 different gate examples, but found 20" in shown


def test_a_table_may_lie_elsewhere(made, check, tmp_path):
    folder = tmp_path / "food"
    write_expert(made / "base", folder, seed=1, gate=400)
    table = (folder / "examples.jsonl").rename(tmp_path / "rows.jsonl")

    result = check(folder, "--base", str(made / "base"), "--examples", str(table))

    assert result.exit_code == 0, result.output


def test_what_is_no_base_is_said_of_the_base(made, check, tmp_path):
    result = check(made / "food", "--base", str(tmp_path))

    assert result.exit_code == 1
    assert "expected a checkpoint" in " ".join(result.stderr.split())
