"""`make` passes on what the user sets and nothing else. A script that logs its arguments replaces Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAKE = '#!/bin/sh\nprintf "%s\\n" "$@" END >> log\n[ "$4" != bench ] || exit "${FAKE_STATUS:-0}"\n'

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs GNU make")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder, with a space in its name, whose .venv is ready."""
    folder = tmp_path / "check out"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(FAKE)
    python.chmod(0o755)
    (folder / ".venv" / ".ready").touch()
    return folder


def make(
    folder: Path, *words: str, **environment: str
) -> tuple[list[list[str]], subprocess.CompletedProcess[str]]:
    """The calls of `python -m benchmark`, each as its arguments, and how make ended."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *words],
        cwd=folder,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    log = folder / "log"
    calls = log.read_text().split("END\n")[:-1] if log.exists() else []
    return [call.splitlines()[3:] for call in calls], done


def option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


def test_help_names_every_target(checkout: Path) -> None:
    calls, done = make(checkout)
    assert not calls
    for target in ("bench", "smoke", "test", "lint", "report", "speed", "guard", "clean"):
        assert f"make {target} " in done.stdout


def test_make_adds_nothing_to_what_the_user_sets(checkout: Path) -> None:
    calls, done = make(checkout, "bench", LLM="from the environment", OUT="elsewhere")
    assert done.returncode == 0 and calls == [["bench", "--report"]]
    assert make(checkout, "report")[0][1:] == [["report"]]
    assert make(checkout, "speed")[0][2:] == [["speed"]]


def test_bench_passes_each_variable(checkout: Path) -> None:
    words = {
        "DATASETS": ("--datasets", "tiny"), "LLM": ("--llms", "bert-medium"), "METHODS": ("--methods", "id"),
        "PROTOCOL": ("--protocols", "fair"), "SEEDS": ("--seeds", "1"), "TUNE": ("--tune", "grid"),
        "GPUS": ("--processes", "2"), "JOBS": ("--jobs", "3"), "EXECUTOR": ("--executor", "ray"),
        "EPOCHS": ("--epochs", "4"), "DATA_DIR": ("--data-dir", "my files"), "RESULTS": ("--results", "r"),
        "OUT": ("--report", "my out"), "SOURCE": ("--source", "paper"), "SET": ("--set", "heads=4"),
    }  # fmt: skip
    given = [f"{name}={value}" for name, (_, value) in words.items()]
    (bench,), done = make(checkout, "bench", "DRY_RUN=1", *given)
    assert done.returncode == 0
    assert {(name, option(bench, name)) for name in bench if name in dict(words.values())} == {
        *words.values()
    }
    assert "--dry-run" in bench and len(bench) == 2 + 2 * len(words)


def test_lists_by_commas_or_spaces_and_values_that_a_shell_would_run(checkout: Path) -> None:
    nasty = """a"; touch x; `touch y` '$$(touch z)"""
    (bench,), _ = make(
        checkout, "bench", "DATASETS=tiny scientific", "METHODS=ssna, tmoe", "SEEDS=1,2",
        "SET=heads=4  noise=*", f"RESULTS={nasty}", "LLM=distilbert distilroberta",
    )  # fmt: skip
    assert option(bench, "--datasets") == "tiny,scientific"
    assert option(bench, "--llms") == "distilbert,distilroberta"
    assert option(bench, "--methods") == "ssna,tmoe"
    assert option(bench, "--seeds") == "1,2"
    assert bench[-3:] == ["--set", "heads=4", "noise=*"]
    assert option(bench, "--results") == nasty.replace("$$", "$")
    assert not {"x", "y", "z"} & {path.name for path in checkout.iterdir()}


@pytest.mark.parametrize("status", [1, 2])
def test_make_fails_where_the_bench_does(checkout: Path, status: int) -> None:
    calls, done = make(checkout, "bench", FAKE_STATUS=str(status))
    assert len(calls) == 1 and done.returncode != 0


def test_smoke_has_folders_of_its_own(checkout: Path) -> None:
    (bench,), _ = make(checkout, "smoke")
    assert (option(bench, "--llms"), option(bench, "--results")) == ("random-tiny", "results/smoke")
    assert option(bench, "--report") == "reports/smoke"


def test_speed_takes_the_first_of_each_list(checkout: Path) -> None:
    (call,), _ = make(checkout, "speed", "METHODS=tmoe,ssna", "DATASETS=tiny toys", "PROTOCOL=fair paper")
    assert call[1:] == ["--dataset", "tiny", "--method", "tmoe", "--protocol", "fair"]


def test_speed_passes_what_is_varied_and_where_figures_go(checkout: Path) -> None:
    values = "encode=cached,unique;touch x"
    (call,), _ = make(
        checkout, "speed", "METHODS=lora", f"VARY={values}", "JSON=my figures.json", "SET=width=8",
        "EPOCHS=2", "AGAINST=old.json",
    )  # fmt: skip
    assert option(call, "--method") == "lora"
    assert (option(call, "--epochs"), option(call, "--against")) == ("2", "old.json")
    assert option(call, "--set") == "width=8"
    assert option(call, "--vary") == values
    assert option(call, "--json") == "my figures.json"
    assert not (checkout / "x").exists()


def test_set_up_refuses_an_old_python_in_one_line(checkout: Path) -> None:
    (checkout / ".venv" / ".ready").unlink()
    old = checkout / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    calls, done = make(checkout, "bench", f"PYTHON={old}")
    assert not calls
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert f"PYTHON={old} is not Python 3.11 or newer" in first
    assert all(line.startswith("make: ***") for line in rest)


def test_report_passes_its_folders_and_source(checkout: Path) -> None:
    (call,), _ = make(checkout, "report", "SOURCE=both", "OUT=my out", "RESULTS=r")
    assert call == ["report", "--results", "r", "--out", "my out", "--source", "both"]
