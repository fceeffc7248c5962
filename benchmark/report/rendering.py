"""A section as text: Markdown, CSV, LaTeX, or for a terminal; and a LaTeX document of all sections.

LaTeX is in the manner of booktabs. Any character compiles under pdflatex: what it has no sign for is written
as its code point.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from benchmark.escape import csv_cell, escape_latex, escape_markdown, visible_line
from benchmark.report.section import Block, Cell, Chapter, Plot, Section
from methods.errors import unknown

Style = Literal["markdown", "csv", "latex", "text"]
STYLES = ("markdown", "csv", "latex", "text")
WIDTH = 110
"""Columns of prose on a terminal."""
LEGEND = {
    "markdown": "**Bold**: the best row of a column, and all rows whose difference from it is not shown.",
    "text": "*: the best row of a column, and all rows whose difference from it is not shown.",
    "latex": r"\textbf{Bold}: the best row of a column, and all rows whose difference from it is not shown.",
}
NO_FIGURE = {
    "", "n/a", "-", "\N{EN DASH}", "\N{MINUS SIGN}", "oom", "failed", "killed", "interrupted", "not stated",
}  # fmt: skip
"""Cells from which the kind of their column cannot be seen."""
_NUMBER = re.compile(
    r"(?:[<>=~≈≤≥]\s*)?"
    r"(?P<sign>[-+\N{MINUS SIGN}]?)(?P<value>(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[-+]?\d+)?)"
    r"(?=$|[\s%/*†‡)\N{MULTIPLICATION SIGN}]|x\b)",
    re.IGNORECASE,
)


def render(section: Section, style: Style) -> str:
    """The tables of a section; the CSV has one line a row and nothing else."""
    if style == "csv":
        return _csv(section)
    if style == "latex":
        return latex(section)
    if style not in STYLES:
        raise unknown("table style", style, STYLES)
    write = markdown if style == "markdown" else text
    return write(section.caption, section.blocks, section.notes)


def _csv(section: Section) -> str:
    """The lines, under the heads that occur in any of them; without lines, every cell as it is printed.

    No cell is a formula: see `csv_cell`.
    """
    lines = section.lines or [
        {"table": block.title, "row": row[0].text, "column": head, "value": cell.text}
        for block in section.blocks
        for row in block.rows
        for head, cell in zip(block.heads[1:], row[1:], strict=True)
    ]
    heads = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(csv_cell, heads))
    writer.writerows([csv_cell(line.get(name)) for name in heads] for line in lines)
    return file.getvalue()


def number(text: str) -> float | None:
    """The number that a cell begins with, by which a column is sorted; None for words.

    `.0939 ± .0075` is .0939, `1,234 GPU` is 1234, `<.001` is .001; a name like `3-gram` is a word.
    """
    match = _NUMBER.match(text.strip())
    if not match or not any(char.isdigit() for char in match["value"]):
        return None
    value = float(match["value"].replace(",", ""))
    return value if match["sign"] in {"", "+"} else -value


def numeric(block: Block) -> list[bool]:
    """Which columns hold figures: not the first one, nor one half of whose cells are words."""
    columns = [False]
    for column in range(1, len(block.heads)):
        texts = [row[column].text.strip() for row in block.rows]
        filled = [text for text in texts if text not in NO_FIGURE]
        figures = sum(number(text) is not None for text in filled)
        columns.append(not filled or 2 * figures > len(filled))
    return columns


def marked(blocks: Sequence[Block]) -> bool:
    """Whether there is a best cell, and so something for the legend to explain."""
    return any(cell.mark for block in blocks for row in block.rows for cell in row)


def markdown(caption: str, blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """GitHub-flavoured Markdown."""
    parts = [escape_markdown(caption)]
    for block in blocks:
        title = f"**{escape_markdown(block.title)}**"
        parts += [title, _tabulated(block, "pipe", escape_markdown, best="**{}**")]
    parts += [LEGEND["markdown"]] if marked(blocks) else []
    return _paragraphs(*parts, "\n".join(f"- {escape_markdown(note)}" for note in notes))


def text(caption: str, blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """For a terminal: a star before what is bold elsewhere, so that digits stay aligned."""
    tables = [
        f"{visible_line(block.title)}\n{_tabulated(block, 'simple', visible_line, best='* {}')}"
        for block in blocks
    ]
    legend = [LEGEND["text"]] if marked(blocks) else []
    return _paragraphs(paragraph(caption), *tables, "\n".join(map(paragraph, [*legend, *notes])))


def _tabulated(block: Block, form: str, write: Callable[[str], str], best: str) -> str:
    """The table in a form that tabulate knows; `best` is how the best cells of a column are written."""
    from tabulate import tabulate

    body = [[(best if cell.mark else "{}").format(write(cell.text)) for cell in row] for row in block.rows]
    aligned = ["right" if figures else "left" for figures in numeric(block)]
    heads = list(map(write, block.heads))
    return tabulate(body, heads, tablefmt=form, disable_numparse=True, colalign=aligned)


def paragraph(value: str) -> str:
    """Prose in lines for a terminal."""
    return "\n".join(textwrap.wrap(value, WIDTH))


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"


# --- LaTeX

NEEDS = r"% Needs \usepackage{booktabs,graphicx}."
ROWS = 32
"""Rows of a table on one page; the others follow under the same heads."""
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
"""Makes what follows no wider than the line."""
_MARKS = {"": "{}", "best": r"\textbf{{{}}}"}
_DOCUMENT = r"""\documentclass[10pt,a4paper,landscape]{article}
\usepackage[margin=15mm]{geometry}
\usepackage{booktabs,graphicx,float}
\let\floating\table  % here tables stand where they are named, and do not float
\renewcommand{\table}[1][]{\floating[H]}
\setlength{\parindent}{0pt}
\emergencystretch=3em
\pagestyle{plain}
\begin{document}
"""


def latex_document(title: str, parts: Sequence[Chapter], left_out: Sequence[str] = ()) -> str:
    """A whole document that takes in each section's `<stem>.tex` and plots, which lie in its folder, and says
    why records were `left_out`."""
    lines = [_DOCUMENT + rf"{{\LARGE {escape_latex(title)}\par}}"]
    if left_out:
        lines += ["", r"\section*{Left out}", *(rf"{escape_latex(line)}\par" for line in left_out)]
    for part in parts:
        lines += ["", rf"\section*{{{escape_latex(part.heading)}}}"]
        for section in part.sections:
            lines += ["", rf"\subsection*{{{escape_latex(section.title)}}}", rf"\input{{{section.stem}.tex}}"]
            lines += [_figure(section.stem, plot) for plot in section.plots if "png" in plot.forms]
            lines.append(r"\clearpage")
    return "\n".join([*lines, r"\end{document}", ""])


def _figure(stem: str, plot: Plot) -> str:
    size = r"width=.7\linewidth,height=.42\textheight,keepaspectratio"
    image = rf"\includegraphics[{size}]{{{stem}-{plot.name}.png}}"
    return rf"\begin{{center}}{image}\par\small {escape_latex(plot.heading)}\end{{center}}"


def latex(section: Section) -> str:
    r"""A `table` for each block, no wider than the line, and the notes after the last one.

    `\usepackage{booktabs,graphicx}` is all it needs.
    """
    lines = [NEEDS]
    for number, block in enumerate(section.blocks):
        caption = section.caption if number == 0 else ""
        legend = LEGEND["latex"] if marked([block]) else ""
        for page, rows in enumerate(_pages(block)):
            title = f"{block.title}{', continued' if page else ''}."
            caption_parts = [escape_latex(title), "" if page else escape_latex(caption), legend]
            lines += _table(block, rows, " ".join(part for part in caption_parts if part))
    if not section.blocks:
        lines += [escape_latex(section.caption) + r"\par"]
    if section.notes:
        lines += [r"{\footnotesize\raggedright"]
        lines += [escape_latex(note) + r"\par" for note in section.notes]
        lines += ["}", ""]
    return "\n".join(lines)


def _pages(block: Block) -> Iterator[list[tuple[list[Cell], bool]]]:
    """The rows, page by page, each with whether a rule stands above it."""
    first_bound = len(block.rows) - block.bounds
    rows = [(row, place == first_bound > 0) for place, row in enumerate(block.rows)]
    for start in range(0, max(len(rows), 1), ROWS):
        yield rows[start : start + ROWS]


def _table(block: Block, rows: Sequence[tuple[list[Cell], bool]], caption: str) -> list[str]:
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{caption}}}\smallskip",
        rf"{FIT}\begin{{tabular}}{{{''.join('r' if figures else 'l' for figures in numeric(block))}}}",
        r"\toprule",
        " & ".join(escape_latex(head) for head in block.heads) + r" \\",
        r"\midrule",
    ]
    for number, (row, ruled) in enumerate(rows):
        if ruled and number:
            lines.append(r"\midrule")
        lines.append(" & ".join(_MARKS[c.mark].format(escape_latex(c.text)) for c in row) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
