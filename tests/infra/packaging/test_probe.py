"""The health check runs the code of a model in a process that knows no server and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import Corrupt
from infra.packaging.probe import check_answers

MLMODEL = """\
flavors:
  python_function: {loader_module: curious, code: code, data: ., python_version: 3.11.0}
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a model that does something when it is loaded."""
    monkeypatch.setenv("SUPERMERGE_STATE_DIR", str(tmp_path))

    def write(statement: str) -> Path:
        (tmp_path / "MLmodel").write_text(MLMODEL)
        (tmp_path / "code").mkdir()
        (tmp_path / "code/curious.py").write_text(
            f"import os, sys\n\ndef _load_pyfunc(path):\n    {statement}\n"
        )
        return tmp_path

    return write


def test_code_in_a_model_sees_no_credential_and_its_exception_is_quoted(model, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-1")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-2")
    monkeypatch.setenv("SUPERMERGE_WEBHOOK_SECRET", "hush-3")
    seen = "str(os.environ) + open('/proc/self/environ').read()"
    statement = (
        f"raise ValueError(f\"PATH {{({seen}).count('PATH')}}, hush {{({seen}).count('hush')}}\")"
    )
    with pytest.raises(Corrupt, match=r"ValueError: PATH [1-9]\d*, hush 0"):
        check_answers(model(statement))


def test_a_killed_process_is_named(model):
    with pytest.raises(Corrupt, match="ended by SIGKILL"):
        check_answers(model("os.kill(os.getpid(), 9)"))
