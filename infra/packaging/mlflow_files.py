"""Makes a folder with a merged model loadable by MLflow, without pickle.

MLflow's generic format names a loader module; ``code/merged_model/`` is a copy of
:mod:`merging.serving`, which needs torch and transformers but nothing of this project, checks the
manifest's digests, and then reads safetensors and JSON.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import yaml
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from merging import serving
from merging.kinds import ModelKind
from merging.models.folder import CODE, MergedFolder

_MODULE = "merged_model"
_NEEDS = (
    *("torch", "transformers", "tokenizers", "sentencepiece", "tiktoken", "protobuf"),
    *("safetensors", "numpy", "pandas", "pillow"),
)


def add_mlflow_files(folder: MergedFolder, kind: ModelKind, model_id: str) -> None:
    """Adds ``MLmodel``, ``code/`` and the environment files to a merged model.

    Args:
        folder: The merged model; files there of these names are replaced.
        kind: What its inputs are.
        model_id: Identity of the model; the same identity gives the same bytes.
    """
    code = folder.code / _MODULE
    code.mkdir(parents=True, exist_ok=True)
    for file in sorted(Path(serving.__file__).parent.glob("*.py")):
        shutil.copyfile(file, code / file.name)

    pinned = [f"{name}=={_public(version(name))}" for name in ("mlflow", *_NEEDS)]
    (folder.path / "requirements.txt").write_text("\n".join(pinned) + "\n")
    python = ".".join(map(str, sys.version_info[:3]))
    environment = {"python": python, "build_dependencies": ["pip"]}
    environment["dependencies"] = ["-r requirements.txt"]
    (folder.path / "python_env.yaml").write_text(yaml.safe_dump(environment, sort_keys=False))

    item = DataType.binary if kind.reads_images else DataType.string
    schema = Schema([ColSpec(DataType.string, "task"), ColSpec(Array(item), "inputs")])
    model = Model(
        utc_time_created="1970-01-01 00:00:00",  # The manifest must not depend on the clock.
        model_uuid=model_id[:32],
        signature=ModelSignature(inputs=schema),
    )
    mlflow.pyfunc.add_to_model(
        model, loader_module=_MODULE, data=".", code=CODE, python_env="python_env.yaml"
    )
    model.save(str(folder.path / "MLmodel"))


def _public(release: str) -> str:
    """A version without its local part (``2.13.0+cpu`` → ``2.13.0``)."""
    return release.split("+", 1)[0]
