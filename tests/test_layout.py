"""How the project is laid out: who may import whom, who may name whom, what is packaged."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from benchmark.measure import PACKAGES
from methods import BUILTIN

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("adaptrec", "benchmark", "methods", "studies")
    for path in sorted((ROOT / package).rglob("*.py"))
}
BENCHMARK = sorted(name for name in SOURCES if name.split(".")[0] == "benchmark")
METHODS = sorted(name for name in SOURCES if name.split(".")[0] == "methods")
API = sorted(name for name in SOURCES if name.split(".")[0] == "adaptrec")
STUDIES = sorted(name for name in SOURCES if name.split(".")[0] == "studies")

FLOORS = (
    {"escape", "process"},
    {"config", "files"},
    {"results", "data", "llm"},
    {"measure", "model"},
    {"train"},
    {"audit", "run"},
    {"speed", "verify", "serve"},
    {"report"},
    {"explain", "grid"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""Rooms of `benchmark` from the ground floor up. A room imports its own floor and those below."""
GROUND_MAY_SEE = {"methods.errors", "methods.fields", "methods.base", "methods.plugins", "methods.pooling"}
"""What `config`, `record`, `measure`, `data` and `llm` may know of methods: the contract, no method."""


def floor_of(module: str) -> int:
    room = module.split(".")[1] if "." in module else ""
    return next((level for level, rooms in enumerate(FLOORS) if room in rooms), -1)


@cache
def nodes_of(module: str) -> list[ast.AST]:
    """All nodes of a module, which is parsed once."""
    return list(ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))))


@cache
def imports_of(module: str) -> list[tuple[int, str]]:
    """(line, module) of every import, those inside functions and under TYPE_CHECKING included."""
    return list(_imports_of(module))


def _imports_of(module: str) -> Iterator[tuple[int, str]]:
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in SOURCES else node.module


def test_every_room_has_a_floor() -> None:
    assert [name for name in BENCHMARK if name != "benchmark" and floor_of(name) < 0] == []


def test_a_floor_has_at_most_four_rooms() -> None:
    assert [sorted(rooms) for rooms in FLOORS if len(rooms) > 4] == []


def test_a_class_name_has_one_meaning() -> None:
    """In all packages and studies, leading underscores aside."""
    modules: dict[str, list[str]] = {}
    for module in SOURCES:
        for node in nodes_of(module):
            if isinstance(node, ast.ClassDef):
                modules.setdefault(node.name.lstrip("_"), []).append(module)
    assert {name: where for name, where in modules.items() if len(where) > 1} == {}


def imported(modules: Iterable[str], wrong: Callable[[str, str], bool]) -> list[str]:
    """The imports of `modules` that are `wrong`, a function of the module and of what it imports."""
    return [
        f"{module}, line {line}: {name}"
        for module in modules
        for line, name in imports_of(module)
        if wrong(module, name)
    ]


def test_methods_import_nothing_of_the_benchmark() -> None:
    assert imported(METHODS, lambda _, name: name.split(".")[0] == "benchmark") == []


def test_the_packages_import_nothing_that_is_built_on_them() -> None:
    above = {"adaptrec", "studies"}
    assert imported([*BENCHMARK, *METHODS], lambda _, name: name.split(".")[0] in above) == []


def test_what_is_built_on_the_packages_uses_their_public_names() -> None:
    public = ("__", "_exit")  # of os
    private = [
        f"{module}, line {node.lineno}: {name}"
        for module in (*API, *STUDIES)
        for node in nodes_of(module)
        if isinstance(node, ast.ImportFrom | ast.Attribute)
        for name in names_in(node)
        if name.startswith("_") and not name.startswith(public)
    ]
    assert private == []


def names_in(node: ast.ImportFrom | ast.Attribute) -> list[str]:
    """What a node takes from a module or an object other than `self`."""
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    return [] if ast.unparse(node.value) == "self" else [node.attr]


def test_a_study_uses_none_of_another_study() -> None:
    """Except for what all share."""

    def other(module: str, name: str) -> bool:
        own = (f"{room_of(module)}.", "studies.common.")
        return name.startswith("studies.") and not f"{name}.".startswith(own)

    assert imported([*API, *STUDIES], other) == []


def test_imports_run_one_way() -> None:
    def upward(module: str, name: str) -> bool:
        return name.startswith("benchmark.") and floor_of(name) > floor_of(module)

    assert imported(BENCHMARK, upward) == []


def test_the_ground_floor_knows_no_method() -> None:
    ground = [name for name in BENCHMARK if 0 <= floor_of(name) <= 1]
    known = imported(ground, lambda _, name: name.split(".")[0] == "methods" and name not in GROUND_MAY_SEE)
    assert known == []


def test_the_benchmark_imports_no_single_method() -> None:
    single = {target.partition(":")[0] for target in BUILTIN.values()}
    assert imported(BENCHMARK, lambda _, name: name in single) == []


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_imports_have_no_cycle() -> None:
    """Of modules and of rooms; imports inside functions and under TYPE_CHECKING count too."""
    edges = {
        (module, name)
        for module in SOURCES
        for _, name in imports_of(module)
        if name in SOURCES and name != module
    }
    rooms = {(room_of(one), room_of(other)) for one, other in edges if room_of(one) != room_of(other)}
    for pairs in (edges, rooms):
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for one, other in pairs:
            sorter.add(one, other)
        sorter.prepare()  # raises CycleError, which names the circle


def test_the_benchmark_names_no_method() -> None:
    """Docstrings and notes of fields, which are strings that stand alone, may."""
    named = []
    for module in BENCHMARK:
        notes = {id(node.value) for node in nodes_of(module) if isinstance(node, ast.Expr)}
        named += [
            f"{module}, line {node.lineno}: {node.value!r}"
            for node in nodes_of(module)
            if isinstance(node, ast.Constant)
            and id(node) not in notes
            and node.value in BUILTIN
            and node.value not in PACKAGES  # `peft` is also a package, whose version a record holds
        ]
    assert named == []


def test_no_python_lies_under_datasets() -> None:
    assert list((ROOT / "datasets").rglob("*.py")) == []


def test_datasets_is_hugging_faces() -> None:
    """From the repository's root, where a folder has the same name."""
    code = "from importlib.util import find_spec; print(find_spec('datasets').origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    module = Path(done.stdout.strip())
    assert module.name == "__init__.py" and not module.is_relative_to(ROOT / "datasets")


def test_every_package_is_listed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(setup["packages"]) - set(setup["package-dir"])
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("adaptrec", "benchmark", "methods")
        for path in (ROOT / top).rglob("*.py")
    }
    assert sorted(listed) == sorted(there)
    assert [name for name in there if not (ROOT / Path(*name.split(".")) / "__init__.py").exists()] == []


def test_files_that_packages_need_are_listed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for top in ("adaptrec", "benchmark", "methods"):
        there = {
            str(path.relative_to(ROOT / top))
            for path in (ROOT / top).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }
        assert there == set(declared[top])


def test_functions_are_a_screenful() -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = [
        f"{module}, {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for module in SOURCES
        for node in nodes_of(module)
        if isinstance(node, functions) and node.end_lineno and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_tests_replace_no_private_name() -> None:
    """A test of behaviour outlives a change of what is inside."""
    private = {
        f"{path.name}: {name}"
        for path in (ROOT / "tests").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr")
        for argument in node.args[:2]
        if isinstance(argument, ast.Constant) and isinstance(name := argument.value, str)
        if name.rpartition(".")[2].startswith("_") and not name.endswith("__")
    }
    assert private == set()
