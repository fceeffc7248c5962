"""The LaTeX of a report compiles, whatever the names, and its tables fit the page."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from report_page import BREAK, QUOTES, SCRIPT

from benchmark.escape import escape_latex
from benchmark.report.rendering import ROWS, latex_document, render
from benchmark.report.section import Block, Cell, Chapter, Plot, Section

AWKWARD = [
    r"a_b & c% #1 ${x}$ ~^ \ | <i> [2] --x `q` *",
    SCRIPT,
    QUOTES,
    BREAK,
    "žluťoučký Kůň, façade, Ærø, Straße",
    "中文 и кирилица 🙂 \x07 \u200b",
    "± × − ≤ ≥ → Δ τ – — … “quoted” ‘so’",  # noqa: RUF001
    r"\end{document}",
    "",
    "---- ?` !`",
]
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)
"""A PNG of one pixel."""


def awkward() -> list[Section]:
    rows = [[Cell(name), Cell(name, "best"), Cell(name), Cell(".5")] for name in AWKWARD]
    wide = [
        [Cell(f"row {row}")] + [Cell(f"{row}{column}.123456") for column in range(40)] for row in range(70)
    ]
    blocks = [
        Block(AWKWARD[0], AWKWARD[:4], rows, bounds=2),
        Block("wide and long", ["row", *map(str, range(40))], wide, bounds=1),
        Block("none", ["a", "b"], []),
    ]
    plot = Plot("p", AWKWARD[5], {"png": DOT})
    return [
        Section("a_b-c.d", AWKWARD[0], AWKWARD[4], blocks, AWKWARD, [plot]),
        Section("nothing", "no table", AWKWARD[3], [], plots=[Plot("q", "none", {})]),
    ]


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="needs pdflatex (Debian: texlive-latex-base, texlive-latex-recommended)",
)
def test_the_document_of_awkward_names_compiles_and_fits(tmp_path):
    sections = awkward()
    for section in sections:
        (tmp_path / f"{section.stem}.tex").write_text(render(section, "latex"), encoding="utf-8")
    (tmp_path / "a_b-c.d-p.png").write_bytes(DOT)
    (tmp_path / "report.tex").write_text(
        latex_document(SCRIPT, [Chapter(QUOTES, sections)]), encoding="utf-8"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120)
    log = (tmp_path / "report.log").read_text(encoding="latin-1")
    assert done.returncode == 0, re.findall(r"^!.*\n.*\n.*", log, re.M)
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
    assert not re.findall(r"Overfull \\[hv]box \((?:[2-9]\d|\d{3,})[.\d]*pt", log)


def test_a_long_table_goes_on_under_the_same_heads():
    text = render(awkward()[0], "latex")
    assert text.count(r"\caption{wide and long.") == 1
    assert text.count(r"\caption{wide and long, continued.") == 2
    assert text.count("row & 0 & 1 & 2") == 3
    tables = re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.S)
    assert max(table.count(r"\\") for table in tables) <= ROWS + 1


def test_every_command_opened_is_closed():
    text = render(awkward()[0], "latex")
    assert sorted(re.findall(r"(?<!\\)\\begin\{(\w+)\}", text)) == sorted(
        re.findall(r"(?<!\\)\\end\{(\w+)\}", text)
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_1 & 50%", r"a\_1 \& 50\%"),
        ("--x", "-{}-x"),
        ("č é", r"\v{c} \'{e}"),
        ("中", r"\texttt{U+4E2D}"),
        ("a\n b", "a b"),
        ("\N{MINUS SIGN}3 ± 1", r"$-$3 $\pm$ 1"),
    ],
)
def test_signs_as_latex_writes_them(text, written):
    assert escape_latex(text) == written
