"""The report of the committed records is the committed report: nothing that is printed changes unnoticed.

An intended change updates the files in a commit of its own: `make report SOURCE=both`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from pathlib import Path

import pytest

from benchmark.cli import main

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "reports"
TEXT = {".md", ".csv", ".tex", ".html", ".svg"}
"""Compared by content; other files (bitmaps, the manifest of digests) by name."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, made in a copy: its pages name the paths of results and report."""
    folder, before = tmp_path_factory.mktemp("golden"), Path.cwd()
    shutil.copytree(ROOT / "results", folder / "results")
    os.chdir(folder)
    try:
        assert main(["report", "--source", "both", "--results", "results", "--out", "reports"]) == 0
    finally:
        os.chdir(before)
    return folder / "reports"


def test_the_report_has_the_committed_files(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {
        path.name for path in GOLDEN.iterdir() if path.is_file()
    }


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir() if path.suffix in TEXT))
def test_the_report_is_the_committed_one(made: Path, name: str) -> None:
    golden, new = (text_of(folder / name) for folder in (GOLDEN, made))
    if golden == new:
        return
    assert name.endswith(".csv"), first_difference(golden, new)
    # sums of floats may end in another digit on another processor
    for golden_row, new_row in zip(
        csv.reader(io.StringIO(golden)), csv.reader(io.StringIO(new)), strict=True
    ):
        assert list(map(number, new_row)) == [
            pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value
            for value in map(number, golden_row)
        ]


def text_of(path: Path) -> str:
    """The file; of the page without the pictures that it carries."""
    return re.sub(r'data:image/[^"]+', "PICTURE", path.read_text(encoding="utf-8"))


def number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def first_difference(golden: str, new: str) -> str:
    pairs = zip(golden.splitlines(), new.splitlines(), strict=False)
    lines = next((pair for pair in pairs if pair[0] != pair[1]), ("", "one is longer than the other"))
    return f"committed: {lines[0][:300]}\nnow:       {lines[1][:300]}"
