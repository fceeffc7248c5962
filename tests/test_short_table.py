"""The short table of a report: its rows, their order and the lines for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.__main__ import main

QUALITY = """# A report

**Test**

| method | masked R@10 | masked N@10 | raw R@10 | raw N@10 | cold R@10 | seeds |
|:-------|------:|------:|------:|------:|------:|------:|
| id † | .1000 ± .0010 | .05 | .08 | .04 | .00 | 2 |
| ssna (top_layers=1) | .1300 | .06 | .09 | .05 | .00 | 1 |
| blend | **.1200 ± .0010** | .06 | .09 | .05 | .00 | n/a |
| chance | .0010 | .00 | .00 | .00 | .00 | |
"""
COST = """
**Cost**

| method | CPU s/epoch | best / epochs | peak GiB | trainable | search s |
|:-------|------:|------:|------:|------:|------:|
| id † | 2.70 | 5 / 9 | 1.00 | 100 | n/a |
| blend | n/a | n/a | .35 | n/a | 10 |
"""


def test_rows_are_sorted_and_joined_with_their_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.md").write_text(QUALITY + COST)
    assert main(["short_table", str(tmp_path / "report.md"), "--without", "top_layers"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["method", rows[1][0], "`blend`", "`id` †", "chance"]
    assert rows[0][5:] == ["seeds", "CPU s/epoch", "best / epochs", "peak GiB", "trainable"]
    assert rows[2][1:] == ["**.1200 ± .0010**", ".06", ".09", ".05", "", "", "", ".35", ""]
    assert rows[3][1:] == [".1000 ± .0010", ".05", ".08", ".04", "2", "2.70", "5 / 9", "1.00", "100"]


@pytest.mark.parametrize("text", [None, QUALITY])
def test_a_file_that_is_no_report_is_one_line(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "report.md").write_text(text)
    assert main(["short_table", str(tmp_path / "report.md")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "report.md" in err
