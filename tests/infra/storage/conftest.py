from __future__ import annotations

from pathlib import Path

import pytest

from infra.storage.folder import FolderStore
from infra.storage.store import ObjectStore, S3Uri


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Where the store makes no difference: the quickest one."""
    return FolderStore(tmp_path / "store")


@pytest.fixture
def folder() -> S3Uri:
    """A place in the store that nobody else uses."""
    return S3Uri("bucket", "folder")
