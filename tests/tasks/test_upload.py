"""Uploading says what it does, with sizes, before it does it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from infra.families import Family
from infra.storage.folder import FolderStore
from tasks.upload import upload_base
from tests.e2e import tiny


def test_each_file_is_named_with_its_size_before_it_is_uploaded(tmp_path: Path):
    base = tiny.write_base(tmp_path / "base")
    family = Family(
        name="tiny", kind="text-classifier", base="s3://bucket/bases/tiny", bucket="bucket"
    )
    store = FolderStore(tmp_path / "objects")
    told: list[str] = []

    def report(words: str) -> None:
        there = {item.path for item in store.list(family.base_uri)}
        assert not any(f"Uploading {path} " in words for path in there)
        told.append(words)

    upload_base(SimpleNamespace(family=family, store=store), base, report)

    there = sorted(item.path for item in store.list(family.base_uri))
    assert [words.split()[1] for words in told] == there
    assert "Uploading model.safetensors (0.2 MB)" in told
