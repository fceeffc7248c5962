"""A section as text: Markdown, CSV, LaTeX, or for a terminal."""

from __future__ import annotations

import csv
import io
from typing import Literal

from benchmark.report import styles
from benchmark.report.latex import latex
from benchmark.report.section import Section
from methods.errors import unknown

Style = Literal["markdown", "csv", "latex", "text"]
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
    """The lines, under the heads that occur in any of them; without lines, every cell as it is printed."""
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
    writer.writerows(lines)
    return file.getvalue()
