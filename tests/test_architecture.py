"""What import contracts (pyproject.toml) cannot say: one package for one library, and no pickles."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("merging", "infra", "tasks", "flows")
COMPOSITION_ROOT = ROOT / "infra" / "cli"


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def parsed(package: str) -> list[tuple[Path, list[ast.AST]]]:
    return [(path, nodes(path)) for path in (ROOT / package).rglob("*.py")]


def imported(path: Path) -> set[str]:
    names = set()
    for node in nodes(path):
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
    for path, module in parsed(package):
        names = {name.split(".")[0] for name in imported(path)}
        assert not names & {"pickle", "cloudpickle", "dill", "joblib"}, path
        calls = [node for node in module if isinstance(node, ast.Call)]
        keywords = [keyword for call in calls for keyword in call.keywords]
        trust = [keyword.value for keyword in keywords if keyword.arg == "trust_remote_code"]
        assert {ast.unparse(value) for value in trust} <= {"False"}, path
        assert "torch.load" not in {ast.unparse(call.func) for call in calls}, path


@pytest.mark.parametrize("package", PACKAGES)
def test_names_of_tags_and_metrics_stand_in_one_place(package):
    tags = re.compile(r'"merge\.|validation_status|approval_status')
    for path, module in parsed(package):
        if path != ROOT / "infra" / "registry" / "tags.py":
            assert not tags.search(path.read_text()), path
        texts = {node.value for node in module if isinstance(node, ast.Constant)}
        metrics = {text for text in texts if str(text).startswith(("gate/", "learn/"))}
        assert not metrics or path == ROOT / "infra" / "registry" / "metrics.py", (path, metrics)


def test_flows_leave_every_call_to_a_server_to_a_task():
    for path, module in parsed("flows"):
        names = {node.attr for node in module if isinstance(node, ast.Attribute)}
        assert not names & {"registry", "store", "promotions", "cache"}, path


def test_a_task_that_is_given_the_queue_is_tried_again():
    given = 0
    for path, module in parsed("tasks"):
        for function in module:
            if not isinstance(function, ast.FunctionDef):
                continue
            tasks = [call for call in function.decorator_list if "task(" in ast.unparse(call)]
            if tasks and "queue" in {argument.arg for argument in function.args.args}:
                assert ast.unparse(tasks[0]) == "task(**SIDE_EFFECT)", (path, function.name)
                given += 1
    assert given > 10


@pytest.mark.parametrize("package", PACKAGES)
def test_no_task_is_called_behind_prefects_back(package):
    for path, module in parsed(package):
        names = {node.attr for node in module if isinstance(node, ast.Attribute)}
        assert "fn" not in names, path


@pytest.mark.parametrize("package", ["infra", "tasks", "flows"])
def test_no_assertion_tells_states_apart(package):
    for path, module in parsed(package):
        assert not any(isinstance(node, ast.Assert) for node in module), path
