"""What `make` hands to the command line, with a Python in its place that only writes down its arguments."""

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


def test_bench_alone_is_the_embedded_default_and_writes_its_report(checkout: Path) -> None:
    (bench, report), done = make(checkout, "bench", LLM="from the environment", OUT="elsewhere")
    assert done.returncode == 0
    assert (option(bench, "--datasets"), option(bench, "--llms")) == ("tiny", "minilm")
    assert option(bench, "--protocols") == "paper,fair"
    assert "--methods" not in bench
    assert option(bench, "--tune") == "none"
    assert report == ["report", "--results", "results/tiny", "--out", "reports/tiny"]


@pytest.mark.parametrize(
    ("words", "tune"),
    [
        (["LLM=bert-medium"], "paper"),
        (["LLM=distilbert distilroberta"], "paper"),
        (["LLM=some/other-model"], "none"),
        (["LLM=bert-medium", "TUNE=grid"], "grid"),
    ],
)
def test_another_language_model_means_the_papers_study(checkout: Path, words: list[str], tune: str) -> None:
    (bench, report), _ = make(checkout, "bench", *words)
    assert option(bench, "--datasets") == "sci,pantry,tools,toys,ins"
    assert option(bench, "--llms") == words[0].removeprefix("LLM=").replace(" ", ",")
    assert (option(bench, "--protocols"), option(bench, "--tune")) == ("paper", tune)
    assert report == ["report", "--results", "results", "--out", "reports", "--source", "both"]


@pytest.mark.parametrize(("datasets", "tune"), [("scientific", "paper"), ("sci beauty", "none")])
def test_published_values_are_taken_where_there_are_some(checkout: Path, datasets: str, tune: str) -> None:
    (bench, _), _ = make(checkout, "bench", "LLM=bert-medium", f"DATASETS={datasets}")
    assert option(bench, "--tune") == tune


def test_a_dry_run_writes_no_report(checkout: Path) -> None:
    (bench,), done = make(
        checkout, "bench", "DRY_RUN=1", "JOBS=2", "EXECUTOR=ray", "DATA_DIR=my files", FAKE_STATUS="0"
    )
    assert done.returncode == 0
    assert bench[-1] == "--dry-run"
    handed = [option(bench, name) for name in ("--jobs", "--executor", "--data-dir")]
    assert handed == ["2", "ray", "my files"]


def test_lists_by_commas_or_spaces_and_values_that_a_shell_would_run(checkout: Path) -> None:
    nasty = """a"; touch x; `touch y` '$$(touch z)"""
    (bench, report), _ = make(
        checkout, "bench", "DATASETS=tiny scientific", "METHODS=ssna, tmoe", "SEEDS=1,2", "GPUS=2",
        "EPOCHS=3", "SET=heads=4  noise=*", f"RESULTS={nasty}", "OUT=my out",
    )  # fmt: skip
    assert option(bench, "--datasets") == "tiny,scientific"
    assert option(bench, "--methods") == "ssna,tmoe"
    assert option(bench, "--seeds") == "1,2"
    assert option(bench, "--processes") == "2"
    assert option(bench, "--epochs") == "3"
    assert bench[-3:] == ["--set", "heads=4", "noise=*"]
    assert option(bench, "--results") == option(report, "--results") == nasty.replace("$$", "$")
    assert report[-4:] == ["--out", "my out", "--source", "both"]
    assert not {"x", "y", "z"} & {path.name for path in checkout.iterdir()}


@pytest.mark.parametrize(("status", "calls"), [(1, ["bench", "report"]), (2, ["bench"])])
def test_a_cell_that_failed_still_gets_a_report_and_a_mistake_none(
    checkout: Path, status: int, calls: list[str]
) -> None:
    found, done = make(checkout, "bench", FAKE_STATUS=str(status))
    assert [call[0] for call in found] == calls
    assert done.returncode != 0


def test_smoke_and_speed(checkout: Path) -> None:
    (bench, _), _ = make(checkout, "smoke")
    assert (option(bench, "--llms"), option(bench, "--results")) == ("random-tiny", "results/smoke")
    calls, _ = make(checkout, "speed", "METHODS=tmoe,ssna", "DATASETS=tiny", "PROTOCOL=fair")
    assert calls[-1][1:] == ["--dataset", "tiny", "--llm", "minilm", "--method", "tmoe", "--protocol", "fair"]


def test_speed_hands_over_what_is_varied_and_where_figures_go(checkout: Path) -> None:
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


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        ([], ["--out", "reports"]),
        (["SOURCE=both", "OUT=out"], ["--out", "out", "--source", "both"]),
        (["SOURCE=paper"], ["--out", "reports/paper", "--source", "paper"]),
    ],
)
def test_the_report_takes_its_source(checkout: Path, words: list[str], handed: list[str]) -> None:
    (call,), _ = make(checkout, "report", *words)
    assert call == ["report", "--results", "results", *handed]
