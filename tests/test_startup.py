"""What starting a command or a flow must not import: each of these takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "peft", "great_expectations", "matplotlib", "sklearn"}
SERVERS = {"mlflow", "prefect", "boto3", "httpx"}
DATA = {"pandas", "numpy", "scipy"}

ENTRIES = {
    "infra.cli": SERVERS | DATA,
    "infra.queue": {"prefect", "mlflow"},
    "infra.history": {"prefect", "mlflow"},
    "infra.contracts": SERVERS | DATA,
    "merging.gate": SERVERS | DATA,
    "merging.settings": SERVERS | DATA,
    "flows.continual_merge": {"mlflow"},
    "flows.promote": {"mlflow"},
    "flows.rollback": {"mlflow"},
}
"""What something starts with, and what must not come along beside `HEAVY`."""


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
    assert not (HEAVY | ENTRIES[entry]) & set(ran.stdout.split())
