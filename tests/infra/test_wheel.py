"""The wheel holds the four packages, whole, and nothing else; another's packages are noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra.settings import PROJECT
from infra.stack import packages
from infra.stack.packages import DISTRIBUTION, PACKAGES, check_packages
from merging.errors import InvalidInput


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree as it is, built from a copy, since a build leaves files behind."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "prefect.yaml"):
        shutil.copy(PROJECT / name, tree)
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, tree / name, symlinks=True, ignore=ignored)
    build = "import setuptools.build_meta, sys; setuptools.build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, out], cwd=tree, check=True, capture_output=True)
    (made,) = out.glob(f"{DISTRIBUTION}-*.whl")
    return made


def files_of(name: str) -> set[str]:
    every = (path for path in (PROJECT / name).rglob("*") if path.is_file())
    return {str(p.relative_to(PROJECT)) for p in every if p.parent.name != "__pycache__"}


def test_the_wheel_holds_every_file_of_the_four_packages_and_nothing_beside_them(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert names - metadata == set().union(*map(files_of, PACKAGES))
    assert {f"{name}/py.typed" for name in PACKAGES} <= names
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_the_deployments_in_the_wheel_are_those_of_the_project(wheel: Path):
    carried = zipfile.ZipFile(wheel).read("infra/prefect.yaml")
    assert carried == (PROJECT / "prefect.yaml").read_bytes()


def test_the_projects_own_packages_pass():
    check_packages()


def test_another_distribution_in_a_package_of_ours_is_named(monkeypatch):
    owners = {"tasks": ["taskmaster", DISTRIBUTION], "flows": [DISTRIBUTION]}
    monkeypatch.setattr(packages, "packages_distributions", lambda: owners)
    with pytest.raises(InvalidInput, match="tasks also of taskmaster"):
        check_packages()


def test_a_folder_that_python_finds_before_ours_is_named(tmp_path, monkeypatch):
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flows", raising=False)
    with pytest.raises(InvalidInput, match=f"flows in {tmp_path}"):
        check_packages()
