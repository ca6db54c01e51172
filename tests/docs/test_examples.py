"""The code in the pages runs as it stands there, on tiny models of the names that it uses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from infra.families import Family
from merging.gate import GatePolicy
from merging.kinds import ModelKind
from merging.settings import MergeSettings
from tests.docs.pages import blocks
from tests.merging.tiny import WORDS, bert_config, text_table, write_text_expert
from tests.tiny_tokenizer import write_tokenizer


def run(page: str, number: int = 0, **names: Any) -> dict[str, Any]:
    """Runs one Python block of a page in the present folder; what it has bound."""
    exec(compile(blocks(page, "python")[number], page, "exec"), names)
    return names


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base and the two experts that the pages speak of."""
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    BertModel(bert_config()).save_pretrained(folder / "base")
    write_tokenizer(folder / "base", WORDS)
    for seed, task in enumerate(("movie-review", "tweets")):
        write_text_expert(folder / "base", folder / task, seed)
    return folder


@pytest.fixture(scope="module")
def merged(models: Path) -> Path:
    """What the example of docs/method.md makes of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(models)
        patch.setattr("merging.MergeSettings", partial(MergeSettings, steps=3))
        run("docs/method.md")
    return models / "merged"


@pytest.fixture
def registry(tmp_path: Path, merged: Path, empty_mlflow: Path) -> Iterator[None]:
    """MLflow on SQLite, in which that model is the champion of the family `demo`."""
    from mlflow import MlflowClient

    from infra.packaging.mlflow_files import add_mlflow_files
    from merging.models.folder import MergedFolder

    folder = Path(shutil.copytree(merged, tmp_path / "version"))
    add_mlflow_files(MergedFolder(folder), ModelKind.TEXT_CLASSIFIER, "0" * 32)
    files = [path for path in folder.rglob("*") if path.is_file()]
    digests = {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
    manifest = {"kind": ModelKind.TEXT_CLASSIFIER, "files": digests}
    (folder / "manifest.json").write_text(json.dumps(manifest))

    shutil.copy(empty_mlflow, tmp_path)
    address = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(address)
    client.create_registered_model("demo")
    version = client.create_model_version("demo", str(folder))
    client.set_registered_model_alias("demo", "champion", version.version)

    before = dict(os.environ)
    os.environ |= {
        "SUPERMERGE_STATE_DIR": str(tmp_path / "state"),
        "SUPERMERGE_MLFLOW_URI": address,
        "SUPERMERGE_PREFECT_API": "http://127.0.0.1:9/api",  # nothing asks it
    }
    yield
    os.environ.clear()
    os.environ.update(before)


def test_the_expert_of_the_readme_fits_its_base(models, tmp_path, monkeypatch):
    from merging import Checkpoint, ExpertFiles, check_expert

    monkeypatch.chdir(tmp_path)
    table = text_table(0, classes=2).replace({"class-0": "bad", "class-1": "good"})
    run("README.md", 0, base=models / "base", table=table)
    base, files = Checkpoint.open(models / "base"), ExpertFiles(tmp_path / "my-expert")
    mismatches = check_expert(base, files, ModelKind.TEXT_CLASSIFIER)
    assert [m.tensor for m in mismatches] == ["task vector"], "since nothing was trained"


def test_the_library_example_makes_a_model_that_transformers_loads(merged):
    from transformers import AutoModel

    AutoModel.from_pretrained(merged / "model")
    assert (merged / "heads" / "movie-review").is_dir()


@pytest.mark.usefixtures("registry")
def test_the_deployed_model_answers_as_the_readme_asks_it():
    model = run("README.md", 1)["model"]
    (answer,) = model.predict({"task": "movie-review", "inputs": ["ba de fi"]})
    assert answer["task"] == "movie-review"


def test_the_family_file_of_the_page_is_valid():
    (text,) = blocks("docs/families.md", "yaml")
    family = Family.model_validate(yaml.safe_load(text))
    assert set(yaml.safe_load(text)) == set(Family.model_fields), family


def test_the_policy_of_the_page_is_valid_and_has_every_key():
    (text,) = blocks("docs/gate.md", "yaml")
    policy = yaml.safe_load(text)["gate"]
    GatePolicy.model_validate(policy)
    assert set(policy) == set(GatePolicy.model_fields)
