"""What is installed: every data file that the packages read, and nothing of what lies beside them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmark.process import startup
from benchmark.process.startup import environment, packaged_data, secure_imports

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.mark.parametrize(
    ("package", "folder"), [("benchmark.recipes", "datasets"), ("benchmark.paper", "results/paper")]
)
def test_every_data_file_of_the_repository_is_packaged(package: str, folder: str) -> None:
    assert package in SETUP["packages"] and SETUP["package-dir"][package] == folder
    packaged = {path for pattern in SETUP["package-data"][package] for path in (ROOT / folder).glob(pattern)}
    there = {path for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert packaged == there and len(there) > 5


def test_the_wheel_holds_recipes_and_published_figures(tmp_path: Path) -> None:
    """As setuptools lays them out, from a copy: it writes beside what it packages."""
    pytest.importorskip("setuptools", reason="wants setuptools")
    copy = tmp_path / "copy"
    for name in ("benchmark", "methods", "studies", "datasets", "results/paper"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "datasets/new").mkdir()  # a folder is all that a new recipe needs
    (copy / "datasets/new/recipe.toml").write_text('summary = "new"\n')
    build = "from setuptools import setup; setup()"
    command = [sys.executable, "-c", build, "-q", "build_py", "--build-lib", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    site = tmp_path / "site"
    recipes = {path.parent.name for path in (site / "benchmark/recipes").glob("*/recipe.toml")}
    assert recipes == {"new", *(path.parent.name for path in (ROOT / "datasets").glob("*/recipe.toml"))}
    assert (site / "benchmark/paper/tables.toml").is_file()
    assert sorted(path.name for path in site.iterdir()) == ["benchmark", "methods"]


def test_data_of_an_installed_package_lie_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packaged_data("recipes", "datasets") == ROOT / "datasets"
    monkeypatch.setattr(startup, "PACKAGE", tmp_path)
    (tmp_path / "recipes").mkdir()
    assert packaged_data("recipes", "datasets") == tmp_path / "recipes"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose folders have this project's names, and the name of a library."""
    for name in ("benchmark", "methods", "datasets"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "__init__.py").write_text("print('the code of the user ran')\n")
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


FIND = "import benchmark, methods, datasets; print(*(m.__path__[0] for m in (benchmark, methods, datasets)))"


def test_a_process_imports_nothing_of_the_working_directory(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugins"))
    clean = {**os.environ, **environment()}
    done = subprocess.run([sys.executable, "-c", FIND], env=clean, capture_output=True, text=True, check=True)
    ours, theirs, library = done.stdout.split()
    assert (Path(ours), Path(theirs)) == (ROOT / "benchmark", ROOT / "methods")
    assert not Path(library).is_relative_to(mine)
    assert clean["PYTHONPATH"].split(os.pathsep) == [str(ROOT), str(tmp_path / "plugins")]


def test_an_installed_package_does_not_precede_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of installed packages is not put on PYTHONPATH, whose folders come first."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(startup, "ROOT", Path(os.__file__).parent / "site-packages")
    monkeypatch.setattr(startup.site, "getsitepackages", lambda: [str(startup.ROOT)])
    assert environment() == {"PYTHONSAFEPATH": "1"}


def test_an_empty_part_of_pythonpath_does_not_mean_the_working_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep + str(ROOT) + os.pathsep)
    assert environment()["PYTHONPATH"] == str(ROOT)


def test_the_working_directory_is_taken_from_the_path(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(mine), "kept"])
    monkeypatch.setattr(os, "environ", {})
    secure_imports()
    assert sys.path == ["kept"]

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), "kept"])  # a checkout that is not installed
    secure_imports()
    assert sys.path == [str(ROOT), "kept"] and os.environ["PYTHONSAFEPATH"] == "1"
