"""The wheel holds the four packages, whole, and nothing else; another's packages are noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from infra.settings import PREFIX, PROJECT, Settings
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


def install(wheel: Path, folder: Path) -> Path:
    """A virtual environment with the wheel and the dependencies of this one; its programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    subprocess.run(
        [*pip, "install", "--no-deps", "--quiet", "--ignore-installed", wheel], check=True
    )
    return folder / "bin"


@pytest.mark.e2e
def test_an_installed_wheel_runs_in_a_folder_with_packages_of_the_same_names(wheel, tmp_path):
    programs, folder = install(wheel, tmp_path / "venv"), tmp_path / "folder"
    for name in ("tasks", "infra"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('not the project')")
    ours = (PREFIX, "PYTHON", "MLFLOW_", "PREFECT_", "AWS_")  # of the stack that other tests use
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment["PATH"] += f":{Path(sys.executable).parent}"  # the S3 server

    def supermerge(*words: str) -> str:
        command = [programs / "supermerge", *words]
        return subprocess.check_output(command, cwd=folder, env=environment, text=True)

    try:
        assert ".supermerge/stack.json" in "".join(supermerge("up").split())
        assert "champion none yet" in supermerge("status", "demo")
        settings = Settings.load(folder / ".supermerge")
        with httpx.Client(base_url=settings.prefect_api) as prefect:
            deployment = prefect.get("/deployments/name/continual-merge/demo").json()
            created = f"/deployments/{deployment['id']}/create_flow_run"
            run = prefect.post(created, json={"parameters": {"family": "demo"}}).json()
            while run["state_type"] in ("SCHEDULED", "PENDING", "RUNNING"):
                time.sleep(1)
                run = prefect.get(f"/flow_runs/{run['id']}").json()
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
    finally:
        supermerge("down")
    assert {path.name for path in folder.iterdir()} == {"tasks", "infra", ".supermerge"}
