"""What import contracts (pyproject.toml) cannot say: one package for one library, and no pickles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("merging", "infra", "tasks", "flows")
COMPOSITION_ROOT = ROOT / "infra" / "cli"


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def test_nothing_imports_the_command_line():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if COMPOSITION_ROOT not in path.parents:
                assert not any(name.startswith("infra.cli") for name in imported(path)), path


def test_great_expectations_sits_behind_one_package():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if "great_expectations" in {name.split(".")[0] for name in imported(path)}:
                assert (ROOT / "infra" / "contracts") in path.parents


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_unpickled_and_no_remote_code_is_trusted(package):
    for path in (ROOT / package).rglob("*.py"):
        names = {name.split(".")[0] for name in imported(path)}
        assert not names & {"pickle", "cloudpickle", "dill", "joblib"}, path
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        keywords = {keyword.arg for call in calls for keyword in call.keywords}
        assert "trust_remote_code" not in keywords, path
        assert "torch.load" not in {ast.unparse(call.func) for call in calls}, path
