"""Names in the files of a report: none is a formula to a spreadsheet, breaks a table or hides text."""

from __future__ import annotations

import csv
import io

import pytest

from benchmark.escape import escape_markdown, fenced
from benchmark.report.rendering import render
from benchmark.report.section import Block, Cell, Section

HOSTILE = "a|b`c<d>\\e\x1b[31m\x00\u202e\nf & # $g$"


FORMULAS = ["=cmd|calc!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "=1", "-x", "\n=1", " =1", "=-1"]


@pytest.mark.parametrize("name", FORMULAS)
def test_text_that_begins_like_a_formula_is_text(name: str) -> None:
    section = Section("s", "", "", [], lines=[{"dataset": name, "value": -0.5, "n": None}])
    (row,) = csv.DictReader(io.StringIO(render(section, "csv"), newline=""))
    shown = "'" + name.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")
    assert row == {"dataset": shown, "value": "-0.5", "n": ""}


@pytest.mark.parametrize("text", ["-.0045", "+.0012", "-1,234.5", "+3 %", "-1e-05", "12 GPU", "toy", "", "-"])
def test_printed_figures_and_other_text_stay_as_they_are(text: str) -> None:
    block = Block("b", ["row", "figure"], [[Cell("x"), Cell(text)]])
    (row,) = csv.DictReader(io.StringIO(render(Section("s", "", "", [block]), "csv")))
    assert row["value"] == text


def test_a_hostile_name_keeps_the_shape_of_a_markdown_table() -> None:
    block = Block(HOSTILE, ["row", HOSTILE], [[Cell(HOSTILE), Cell("1", "best")], [Cell("b"), Cell("2")]])
    text = render(Section("s", HOSTILE, HOSTILE, [block], [HOSTILE]), "markdown")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {line.replace(r"\|", "").replace(r"\\", "").count("|") for line in table} == {3}
    assert not {"\x1b", "\x00", "\u202e"} & set(text)
    assert r"\x1b" in text and "<d>" not in text.replace(r"\<d\>", "")


def test_a_name_at_the_start_of_a_line_is_no_heading() -> None:
    assert escape_markdown("# a # b") == r"\# a # b"


def test_code_cannot_end_its_own_block() -> None:
    assert fenced("run").splitlines()[0] == "```"
    assert fenced("run '```' x").splitlines() == ["````", "run '```' x", "````"]
