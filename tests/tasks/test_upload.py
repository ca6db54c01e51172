"""Uploading says what it does before it does it, and what it takes is what a merge pulls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from infra.engine import Engine
from infra.families import Family
from infra.storage.cache import Cache
from infra.storage.contents import Contents
from infra.storage.folder import FolderStore
from merging.errors import InvalidInput
from merging.kinds import ModelKind
from tasks.files import expert_files
from tasks.inspection import Finding
from tasks.preflight import open_checked
from tasks.pull import pull_expert
from tasks.upload import register_expert, upload_base
from tasks.values import Base
from tests.e2e import tiny

FAMILY = Family(name="tiny", kind="text-classifier", base="s3://bucket/bases/tiny", bucket="bucket")


class Versions:
    """What the registry would keep."""

    def __init__(self) -> None:
        self.known: dict[str, object] = {}

    def find(self, *_: str) -> None:
        return None

    def register(self, family: str, task: str, source: object, digest: str) -> SimpleNamespace:
        version = SimpleNamespace(task=task, source=source, digest=digest, ref=f"{family}-{task}/1")
        self.known[version.ref] = version
        return version

    def locate(self, version: SimpleNamespace) -> object:
        return version.source

    def record_digest(self, version: SimpleNamespace, digest: str) -> None:
        assert version.digest == digest, "what is pulled is what was uploaded"


@pytest.fixture
def queue(tmp_path: Path) -> SimpleNamespace:
    store = FolderStore(tmp_path / "objects")
    return SimpleNamespace(
        name="tiny",
        family=FAMILY,
        store=store,
        cache=Cache(tmp_path / "cache", store),
        registry=SimpleNamespace(experts=Versions()),
        contents=Contents(store, FAMILY.root),
        settings=SimpleNamespace(family_names=lambda: (), families_dir=tmp_path),
        engine=Engine.real(),
    )


def test_each_file_is_named_with_its_size_before_it_is_uploaded(tmp_path: Path, queue):
    base = tiny.write_base(tmp_path / "base")
    told: list[str] = []

    def report(words: str) -> None:
        there = {item.path for item in queue.store.list(FAMILY.base_uri)}
        assert not any(f"Uploading {path} " in words for path in there)
        told.append(words)

    upload_base(queue, base, report)

    there = sorted(item.path for item in queue.store.list(FAMILY.base_uri))
    assert [words.split()[1] for words in told if "Uploading" in words] == there
    assert "Uploading model.safetensors (0.2 MB)" in told


def test_the_folder_of_trainer_is_taken_without_what_it_saved_on_its_way(
    tmp_path: Path, queue, base: Path, expert: Callable[..., Path]
):
    upload_base(queue, base)
    folder = Path(shutil.copytree(expert("weather"), tmp_path / "out"))
    shutil.copytree(folder, folder / "checkpoint-10", copy_function=shutil.copyfile)
    (folder / "checkpoint-10/optimizer.pt").write_bytes(b"state")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copyfile(folder / "config.json", folder / ".ipynb_checkpoints/config.json")
    (folder / "notes (1) #ü.md").write_text("ours")
    shutil.move(folder / "examples.parquet", tmp_path / "table.parquet")
    found: list[Finding] = []

    version = register_expert(
        queue, "weather", folder, tmp_path / "table.parquet", told=found.append
    )
    pulled = pull_expert.fn(queue, version)

    remark = "Left aside, since a merge does not read it: checkpoint-10/, training_args.bin."
    assert remark in found[0].sentences
    assert pulled.remarks == (), "it was not uploaded"
    taken = sorted(p.relative_to(pulled.directory).as_posix() for p in pulled.directory.rglob("*"))
    assert "notes (1) #ü.md" in taken
    assert "examples.parquet" in taken
    assert not any("checkpoint" in path or path.endswith(".bin") for path in taken)
    assert open_checked(FAMILY, Base(base, ""), "weather", pulled.directory, "it").contract.passed


def test_a_checkpoint_of_trainer_is_told_to_bring_its_table(
    tmp_path: Path, queue, base: Path, expert: Callable[..., Path]
):
    upload_base(queue, base)
    folder = Path(shutil.copytree(expert("weather"), tmp_path / "checkpoint-10"))
    (folder / "examples.parquet").unlink()
    with pytest.raises(InvalidInput, match=r"found none\. .*--examples"):
        register_expert(queue, "weather", folder)


IMAGES = ["a (1).png", "deeper/grün.png"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """An expert's folder with images beside their table, in `data`."""
    for name in ("config.json", "model.safetensors", *(f"data/images/{n}" for n in IMAGES)):
        (tmp_path / "it" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / name).write_text(name)
    paths = [f"images/{name}" for name in IMAGES]
    pd.DataFrame({"image": paths, "label": 0}).to_csv(
        tmp_path / "it/data/examples.csv", index=False
    )
    return tmp_path / "it"


def test_images_go_where_their_table_looks_for_them(pictures: Path, tmp_path: Path):
    files = expert_files(pictures, None, ModelKind.IMAGE_CLASSIFIER)
    assert {f"data/images/{name}" for name in IMAGES} < set(files)
    apart = Path(shutil.move(pictures / "data", tmp_path / "apart")) / "examples.csv"
    files = expert_files(pictures, apart, ModelKind.IMAGE_CLASSIFIER)
    assert files["examples.csv"] == apart
    assert {f"images/{name}" for name in IMAGES} < set(files)


@pytest.mark.parametrize("path", [".thumbnails/a.png", "../it/config.json", "code.py"])
def test_an_image_that_would_not_be_uploaded_is_refused(pictures: Path, path: str):
    (pictures / "data/.thumbnails").mkdir()
    (pictures / "data/.thumbnails/a.png").touch()
    (pictures / "data/code.py").touch()
    row = {"image": path, "label": 0}
    (pictures / "data/examples.csv").unlink()
    (pictures / "data/examples.jsonl").write_text(json.dumps(row))
    with pytest.raises(InvalidInput, match="images"):
        expert_files(pictures, None, ModelKind.IMAGE_CLASSIFIER)


def test_a_table_given_apart_whose_images_have_names_of_the_model_s_files_is_refused(
    pictures: Path, tmp_path: Path
):
    (tmp_path / "config.json").write_text("no image")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "config.json", "label": 0}))
    with pytest.raises(InvalidInput, match="a path of its own"):
        expert_files(pictures, tmp_path / "rows.jsonl", ModelKind.IMAGE_CLASSIFIER)
