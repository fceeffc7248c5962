"""The report of the committed records is the committed report: nothing that is printed changes unnoticed.

An intended change updates the files in a commit of its own: `make report SOURCE=both`.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from contextlib import chdir
from pathlib import Path

import pytest

from benchmark.cli import main

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "reports"
TEXT = {".md", ".csv", ".tex", ".html", ".svg"}
"""Compared by content; other files (bitmaps, the manifest of digests) by name."""


def test_the_report_of_the_committed_records_is_the_committed_one(tmp_path: Path) -> None:
    """One test, so that the report is made once: processes of tests share out the cases of a parameter."""
    new = made(tmp_path)
    assert {path.name for path in new.iterdir()} == {path.name for path in GOLDEN.iterdir() if path.is_file()}
    names = sorted(path.name for path in GOLDEN.iterdir() if path.suffix in TEXT)
    assert [found for name in names if (found := difference(name, new))] == []


def made(folder: Path) -> Path:
    """The report, made in a copy: its pages name the paths of results and report."""
    shutil.copytree(ROOT / "results", folder / "results")
    with chdir(folder):
        assert main(["report", "--source", "both", "--results", "results", "--out", "reports"]) == 0
    return folder / "reports"


def difference(name: str, made: Path) -> str:
    """What differs in a file, empty where nothing does."""
    golden, new = (text_of(folder / name) for folder in (GOLDEN, made))
    if golden == new:
        return ""
    if name.endswith(".csv"):
        cells, others = (
            [list(map(number, row)) for row in csv.reader(io.StringIO(text))] for text in (golden, new)
        )
        # sums of floats may end in another digit on another processor
        if others == [[near(cell) for cell in row] for row in cells]:
            return ""
    return f"{name}, {first_difference(golden, new)}"


def near(cell: float | str) -> object:
    return pytest.approx(cell, rel=1e-9, abs=1e-12) if isinstance(cell, float) else cell


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
