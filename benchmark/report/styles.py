"""How a table of cells looks in Markdown, LaTeX and on a terminal. Knows nothing of records."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Literal

Mark = Literal["", "best", "second"]

WIDTH = 110
"""Columns of prose on a terminal."""
LEGEND = {
    "markdown": "Per quality column: best in **bold**, second <ins>underlined</ins>.",
    "text": "Per quality column: * best, + second.",
    "latex": r"Per quality column: best in \textbf{bold}, second \underline{underlined}.",
}


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    mark: Mark = ""
    record: str = ""
    """Name of the run or published figure behind it, a key of `Section.records`; empty where none is."""


@dataclass(frozen=True)
class Block:
    """One table: a title, heads, and rows; the first column is the label and left-aligned."""

    title: str
    heads: list[str]
    rows: list[list[Cell]]
    bounds: int = 0
    """How many rows at the end are bounds and stand below a rule."""


def markdown(caption: str, blocks: list[Block], notes: list[str]) -> str:
    """GitHub-flavoured Markdown."""
    from tabulate import tabulate

    marks = {"": "{}", "best": "**{}**", "second": "<ins>{}</ins>"}
    parts = [escape_markdown(caption)]
    for block in blocks:
        body = [[marks[cell.mark].format(escape_markdown(cell.text)) for cell in row] for row in block.rows]
        table = tabulate(
            body, block.heads, tablefmt="pipe", disable_numparse=True, colalign=_alignment(block)
        )
        parts += [f"**{escape_markdown(block.title)}**", table]
    parts += [LEGEND["markdown"], "\n".join(f"- {escape_markdown(note)}" for note in notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def text(caption: str, blocks: list[Block], notes: list[str]) -> str:
    """For a terminal: a star before the best and a plus before the second, so that digits stay aligned."""
    from tabulate import tabulate

    marks = {"": "", "best": "* ", "second": "+ "}
    parts = ["\n".join(textwrap.wrap(caption, WIDTH))]
    for block in blocks:
        body = [[marks[cell.mark] + cell.text for cell in row] for row in block.rows]
        table = tabulate(
            body, block.heads, tablefmt="simple", disable_numparse=True, colalign=_alignment(block)
        )
        parts += [f"{block.title}\n{table}"]
    said = [line for note in (LEGEND["text"], *notes) for line in textwrap.wrap(note, WIDTH)]
    parts += ["\n".join(said)]
    return "\n\n".join(parts) + "\n"


def latex(caption: str, blocks: list[Block], notes: list[str]) -> str:
    r"""A `table` for each block, in the manner of booktabs; `\usepackage{booktabs}` is all it needs."""
    marks = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
    lines = [r"% Needs \usepackage{booktabs}."]
    for number, block in enumerate(blocks):
        head = caption if number == 0 else ""
        said = " ".join(escape_latex(part) for part in (f"{block.title}.", head) if part)
        lines += [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize",
            r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{said} {LEGEND['latex']}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(block.heads) - 1)}}}",
            r"\toprule",
            " & ".join(escape_latex(head) for head in block.heads) + r" \\",
            r"\midrule",
        ]
        for place, row in enumerate(block.rows):
            if block.bounds and place == len(block.rows) - block.bounds > 0:
                lines.append(r"\midrule")
            lines.append(" & ".join(marks[c.mark].format(escape_latex(c.text)) for c in row) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        if block is blocks[-1] and notes:
            lines += [r"\par\smallskip\raggedright", *(escape_latex(note) + r"\par" for note in notes)]
        lines += [r"\end{table}", ""]
    return "\n".join(lines)


def _alignment(block: Block) -> list[str]:
    return ["left"] + ["right"] * (len(block.heads) - 1)


_LATEX = {
    **{char: "\\" + char for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "[": "{[}",  # a row that begins with one would be read as the option of the line break before it
    "]": "{]}",
    "±": r"$\pm$",
    "\N{EN DASH}": r"\textendash{}",
}


def escape_latex(value: str) -> str:
    """Text that LaTeX prints as it stands."""
    escaped = "".join(_LATEX.get(char, char) for char in one_line(value))
    return escaped.replace("--", "-{}-").replace("--", "-{}-")  # two hyphens would join to a dash


def escape_markdown(value: str) -> str:
    """Text that Markdown prints as it stands, also in a table; `_` inside a word is safe."""
    return re.sub(r"[\\`*|<>\[\]&~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", one_line(value))


def one_line(value: str) -> str:
    """White space of any kind as single blanks."""
    return " ".join(value.split())
