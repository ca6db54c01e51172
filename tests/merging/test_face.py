"""What a library user imports, and what comes without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import merging

FACE = {
    "Backbone",
    "Checkpoint",
    "Coefficients",
    "ExpertFiles",
    "ExpertSet",
    "Memory",
    "MergeSettings",
    "MergedFolder",
    "ModelKind",
    "check_expert",
    "evaluate",
    "learn_coefficients",
    "make_plan",
    "materialise",
    "open_expert",
    "verify",
}
LIGHT = (
    "merging",
    "merging.errors",
    "merging.gate",
    "merging.gate.decision",
    "merging.gate.policy",
    "merging.gate.report",
    "merging.gate.statistics",
    "merging.kinds",
    "merging.models.folder",
    "merging.models.outcomes",
    "merging.settings",
)
HEAVY = ("torch", "transformers")


def test_the_face_is_what_it_says() -> None:
    assert set(merging.__all__) == FACE
    for name in FACE:
        assert getattr(merging, name).__name__ == name
    assert set(dir(merging)) >= FACE


def test_what_a_type_checker_sees_is_what_is_imported() -> None:
    tree = ast.parse(Path(merging.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: getattr(merging, name).__module__ for name in FACE}


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="magic"):
        merging.magic  # noqa: B018


def test_settings_errors_and_the_gate_come_without_torch() -> None:
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {HEAVY} if heavy in sys.modules]
    assert not loaded, f"{{name}} imports {{loaded}}"
from merging import MergeSettings, MergedFolder, ModelKind
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
