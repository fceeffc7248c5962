"""What is installed: every data file that the packages read, and nothing of what lies beside them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from data_folders import BLINK

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository with one more recipe, from a copy: setuptools writes beside its input."""
    pytest.importorskip("setuptools", reason="wants setuptools")
    copy = tmp_path_factory.mktemp("copy")
    for name in ("adaptrec", "benchmark", "methods", "studies", "datasets", "results/paper"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "datasets/new").mkdir()  # a folder is all that a new recipe needs
    (copy / "datasets/new/recipe.toml").write_text('summary = "new"\n')
    build = "from setuptools import setup; setup()"
    call(copy, sys.executable, "-c", build, "-q", "bdist_wheel", "-d", "out")
    (found,) = (copy / "out").glob("adaptrec-*.whl")
    return found


def call(folder: Path, *command: object) -> str:
    """What a command prints that runs in `folder`, without what this process adds to the path of imports."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_recipes_and_published_figures(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
    recipes = {name.parent.name for name in names if name.match("benchmark/recipes/*/recipe.toml")}
    assert recipes == {"new", *(path.parent.name for path in (ROOT / "datasets").glob("*/recipe.toml"))}
    assert PurePosixPath("benchmark/paper/tables.toml") in names
    top = {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")}
    assert top == {"adaptrec", "benchmark", "methods"}


# --- A method of another package, where only the wheel is installed -----------------------------------------

WHITE = '''"""white: principal components of unit variance, one linear map, and a vector of the item's own."""

from dataclasses import dataclass
from typing import Annotated

import torch
from methods.base import Context, Items, Method
from methods.errors import UserError
from pydantic import Field
from torch import Tensor, nn


@dataclass(frozen=True)
class WhiteConfig:
    """Hyper-parameters of white."""

    components: Annotated[int, Field(ge=1)] = 8
    """How many principal components are kept."""


class White(Method):
    """white: principal components of unit variance, one linear map, a vector of the item's own."""

    reads = ("states", "ids")
    Config = WhiteConfig
    replayable = True

    def __init__(self, config: WhiteConfig, context: Context) -> None:
        super().__init__(config, context)
        k = config.components
        if k > context.llm_width:
            raise UserError(f"components={k} is more than the states have: 1 to {context.llm_width}.")
        variance, directions = torch.linalg.eigh(context.state_covariance[0].double())  # [D], [D, D]
        scale = (variance[-k:] + 1e-6 * variance[-1]).rsqrt()  # [k]
        self.register_buffer("mean", context.state_mean[0].clone(), persistent=False)  # [D]
        self.register_buffer("matrix", (directions[:, -k:] * scale).float(), persistent=False)  # [D, k]
        self.linear = nn.Linear(k, context.out_dim)
        self.own = nn.Embedding(context.n_items, context.out_dim)

    @classmethod
    def reads_covariance(cls, config: WhiteConfig) -> bool:
        return True

    def precompute(self, states: Tensor) -> Tensor:
        return (states[:, 0] - self.mean) @ self.matrix  # [c, 1, D] -> [c, k]

    def forward(self, items: Items) -> Tensor:
        return self.linear(items.states) + self.own(items.ids)  # [M, k], [M] -> [M, d]
'''
TEST_WHITE = """
import pytest
from methods.base import Context
from methods.checks import check_method, parametrize_checks
from methods.errors import UserError
from white import White, WhiteConfig


@parametrize_checks(White)
def test_white(check):
    check()


def test_components():
    check_method(White, WhiteConfig(components=1), seed=1)
    with pytest.raises(UserError, match="1 to 5"):
        White(WhiteConfig(components=6), Context(out_dim=4, n_items=9, total_steps=1, llm_width=5))
"""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, the package `white` as CONTRIBUTING.md lays it out, and libraries."""
    pytest.importorskip("pip", reason="wants pip")
    package = tmp_path_factory.mktemp("white")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (project,) = re.findall(r"^```toml\n(# pyproject.toml\n.*?)^```$", page, re.M | re.S)
    project = project.replace("layermix", "white").replace("LayerMix", "White")
    for name, text in {"pyproject.toml": project, "white.py": WHITE, "test_white.py": TEST_WHITE}.items():
        (package / name).write_text(text, encoding="utf-8")
    home = tmp_path_factory.mktemp("home") / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = call(package, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    libraries = Path(sysconfig.get_path("purelib"))
    (Path(site) / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")  # last on the path
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--ignore-installed")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--no-compile")
    call(package, *pip, *offline, wheel, package)
    (package / "white.py").unlink()  # what is imported is what was installed
    return home


def test_a_method_of_another_package_passes_its_own_tests(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_white.py").write_text(TEST_WHITE, encoding="utf-8")
    where = "import methods, white; print(methods.__file__, white.__file__)"
    files = call(tmp_path, installed / "bin/python", "-c", where).split()
    assert all(Path(file).is_relative_to(installed) for file in files)
    report = call(tmp_path, installed / "bin/python", "-m", "pytest", "-p", "no:cacheprovider", ".")
    passed = re.search(r"(\d+) passed", report)
    assert passed and int(passed[1]) > 15


def test_a_method_of_another_package_runs(installed: Path, folder: Path, tmp_path: Path) -> None:
    adaptrec = installed / "bin/adaptrec"
    command = ("run", "--dataset", folder, "--llm", "random-tiny", "--method", "white", "--epochs", 1)
    printed = call(tmp_path, adaptrec, *command, "--set", "components=4", *BLINK, "--results", tmp_path)
    record = json.loads(Path(printed.strip()).read_text(encoding="utf-8"))
    assert record["status"] == "ok" and record["hyperparameters"] == {"components": 4}
    source = record["method_source"]
    assert source["distribution"] == "adaptrec-white" and source["reads"] == ["states", "ids"]
    assert record["cost"]["trainable_parameters"] > 0


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
