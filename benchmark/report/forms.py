"""A section as text: Markdown, CSV, LaTeX, or for a terminal."""

from __future__ import annotations

import csv
import io
import re
from typing import Any, Literal

from benchmark.report import styles
from benchmark.report.latex import latex
from benchmark.report.section import Section
from benchmark.report.styles import visible
from methods.errors import unknown

Style = Literal["markdown", "csv", "latex", "text"]
FORMULA = ("=", "+", "-", "@")
"""What begins a formula, after blanks, which some spreadsheets drop."""
_NUMBER = re.compile(r"[-+]?(\d[\d,]*)?(\.\d+)?(e[-+]?\d+)?( ?%)?", re.IGNORECASE)
STYLES = ("markdown", "csv", "latex", "text")


def render(section: Section, style: Style) -> str:
    """The tables of a section; the CSV has one line a row and nothing else."""
    if style == "csv":
        return _csv(section)
    if style == "latex":
        return latex(section)
    if style not in STYLES:
        raise unknown("table style", style, STYLES)
    drawn = styles.markdown if style == "markdown" else styles.text
    return drawn(section.caption, section.blocks, section.notes)


def _csv(section: Section) -> str:
    """The lines, under the heads that occur in any of them; without lines, every cell as it is printed.

    No cell is a formula: see `_plain`.
    """
    lines = section.lines or [
        {"table": block.title, "row": row[0].text, "column": head, "value": cell.text}
        for block in section.blocks
        for row in block.rows
        for head, cell in zip(block.heads[1:], row[1:], strict=True)
    ]
    heads = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in line.items()} for line in lines)
    return file.getvalue()


def _plain(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that begins like one, and is no
    number, gets an apostrophe before it, which spreadsheets read as "this is text"."""
    if not isinstance(value, str):
        return value
    text = visible(re.sub(r"\r\n?", "\n", value))  # the writer would not quote a cell with "\r"
    formula = text.lstrip().startswith(FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text
