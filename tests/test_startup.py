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
    "infra.cli, infra.contracts, merging.gate, merging.settings": SERVERS | DATA,
    "infra.queue, infra.history": {"prefect", "mlflow"},
    "flows.continual_merge, flows.promote, flows.rollback": {"mlflow"},
}
"""What something starts with, and what must not come along beside `HEAVY`."""


@pytest.mark.parametrize("entries", ENTRIES)
def test_starting_imports_nothing_heavy(entries):
    """An interpreter for each line and not for each module, since most of them take a second."""
    script = f"import sys, {entries}; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not (HEAVY | ENTRIES[entries]) & set(ran.stdout.split())
