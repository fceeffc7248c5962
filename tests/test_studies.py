"""How studies are run: from a checkout, by the folder's name, whatever the working directory holds."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from studies import FOLDER, command_line
from studies.__main__ import main, names
from studies.prepare_speed.generate import make
from studies.prepare_speed.measure import measure, ours
from studies.walk.cli import walk

STUDIES = [
    "arithmetic", "faults", "growth", "kill_storm", "peers", "prepare_speed", "short_table", "walk",
]  # fmt: skip


@pytest.mark.parametrize("flags", [[], ["-P"]], ids=["no flag", "safe path"])
def test_a_study_imports_this_checkout_and_nothing_of_the_working_directory(
    flags: list[str], tmp_path: Path
) -> None:
    for name in ("benchmark", "methods", "studies", "growth"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the code of the user ran')\n")
    command = [sys.executable, *flags, str(FOLDER), "growth", "show", "nowhere.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    line = "growth: error: the record nowhere.json cannot be read: No such file or directory."
    assert done.stderr.splitlines() == [line]


def test_a_process_that_a_study_starts_runs_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    folder = make(tmp_path / "made", 5000)
    result = measure("ours", folder, 5000, None)
    assert (result["status"], result["sha256"]) == ("ok", ours(folder, tmp_path / "cache")["sha256"])
    assert measure("ours", folder, 5000, 0.001)["status"].startswith("failed: exit status -9")


def test_studies_are_listed_and_an_unknown_one_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert names() == STUDIES
    assert main([]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +[A-Z].*[.?]$", printed, re.MULTILINE) for name in STUDIES)
    assert main(["growht"]) == 2
    error = "studies: error: unknown study 'growht'. Did you mean 'growth'?"
    assert capsys.readouterr().err.startswith(error)


def test_the_command_of_a_record_can_be_typed() -> None:
    assert command_line("growth", ["train", "--set", "a=b c"]) == "python studies growth train --set 'a=b c'"


def test_the_page_shows_how_to_run_each_study() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\.venv/bin/python studies (\w+)", page, re.MULTILINE))
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert shown == listed == set(STUDIES)


def test_the_walk_follows_a_run_and_stays_short() -> None:
    files = walk("tmlp", "random-tiny")
    stations = [
        ["data/tables", "data/pipeline"], ["llm/states", "train/batches", "model/loss"], ["results/targets"],
        ["results/figures", "report/tables"], ["report/rendering"],
    ]  # fmt: skip
    places = [[files.index(f"benchmark/{name}.py") for name in names] for names in stations]
    assert all(max(before) < min(after) for before, after in pairwise(places))
    assert "methods/tmlp.py" in files
    assert not any(file.startswith(("benchmark/commands", "benchmark/cli", "studies")) for file in files)
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"fails above (\d+) files", page)
    assert len(files) <= int(stated), "a new file on the way must be worth it: see studies/README.md"
