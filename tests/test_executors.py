"""Executors of other packages: the example of the docs, and packages that are broken."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from data_folders import BLINK, write_folder

from benchmark.cli import main
from benchmark.grid import executor as executor_module
from benchmark.results.store import iter_runs

DOCS = Path(__file__).parents[1] / "docs" / "grid.md"


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Installs a module with the source `code` whose class is the executor `name`."""

    def install(code: str, target: str) -> None:
        module, name = target.partition(":")[0], target.rpartition(":")[2].removesuffix("Executor").lower()
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)
        points = [EntryPoint(name, target, executor_module.GROUP)]
        monkeypatch.setattr(executor_module, "offered", lambda group: points)

    return install


def bench(tmp_path: Path, executor: str) -> int:
    folder = write_folder(tmp_path / "small")
    return main(
        ["bench", "--datasets", str(folder), "--methods", "id", "--protocols", "fair", "--epochs", "1",
         "--seeds", "0,1",
         "--results", str(tmp_path / "results"), "--executor", executor, "--set", *BLINK]
    )  # fmt: skip


def test_the_example_of_the_docs(
    tmp_path: Path, offer: Callable[[str, str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    text = DOCS.read_text(encoding="utf-8")
    code = re.search(r"```python\n(\"\"\"adaptrec_serial.*?)```", text, re.DOTALL)
    target = re.search(r'serial = "(.*?)"', text)
    assert code and target and code[1].count("\n") < 40
    offer(code[1], target[1])
    assert bench(tmp_path, "serial") == 0
    assert "R@10" in capfd.readouterr().out
    assert [run.record.status for run in iter_runs(tmp_path / "results")] == ["ok", "ok"]


@pytest.mark.parametrize(
    "code",
    [
        "import a_package_that_is_missing",
        "raise SystemExit(3)",
        "",
        "class BrokenExecutor:\n    def __init__(self, options): raise KeyError('x')",
    ],
)
def test_a_broken_executor_is_one_line(
    tmp_path: Path, offer: Callable[[str, str], None], code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    offer(code, "adaptrec_broken:BrokenExecutor")
    assert bench(tmp_path, "broken") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "executor 'broken' (adaptrec_broken:BrokenExecutor) cannot be used: " in line
    assert line.endswith("choose another one: local, ray, slurm.")


def test_an_unknown_executor_names_the_others(
    tmp_path: Path, offer: Callable[[str, str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    offer("", "adaptrec_other:OtherExecutor")
    assert bench(tmp_path, "othr") == 2
    assert "Did you mean 'other'? Allowed: local, ray, slurm, other." in capfd.readouterr().err
