"""What starting a command or a flow must not import: each of these takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = {"torch", "transformers", "peft"}
HEAVY = ENGINE | {"great_expectations", "matplotlib", "sklearn"}

# Modules that something starts with, and what must not come along.
ENTRIES = {
    "infra.cli": HEAVY | {"mlflow", "prefect", "boto3", "pandas", "numpy", "scipy"},
    "infra.queue": HEAVY | {"prefect"},
    "infra.history": HEAVY | {"prefect"},
    "infra.contracts": HEAVY | {"prefect", "mlflow", "pandas", "numpy", "scipy"},
    "merging.gate": HEAVY | {"pandas", "numpy", "scipy"},
    "merging.settings": HEAVY | {"pandas", "numpy", "scipy"},
    "flows.continual_merge": HEAVY,
    "flows.promote": HEAVY,
    "flows.rollback": HEAVY,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_starting_imports_nothing_heavy(entry):
    script = f"import sys, {entry}; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not ENTRIES[entry] & set(ran.stdout.split())
