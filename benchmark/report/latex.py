r"""LaTeX: the tables of a section in the manner of booktabs, and a document of all sections.

Any character compiles under pdflatex: what it has no sign for is written as its code point.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from benchmark.report.section import Block, Cell, Chapter, Plot, Section
from benchmark.report.styles import marked, numeric, one_line

LEGEND = r"Best in \textbf{bold}, second \underline{underlined}."
NEEDS = r"% Needs \usepackage{booktabs,graphicx}."
ROWS = 32
"""Rows of a table on one page; the others follow under the same heads."""
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
"""Makes what follows no wider than the line."""
_MARKS = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
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


def document(title: str, parts: Sequence[Chapter], left_out: Sequence[str] = ()) -> str:
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
    shown = rf"\includegraphics[{size}]{{{stem}-{plot.name}.png}}"
    return rf"\begin{{center}}{shown}\par\small {escape_latex(plot.heading)}\end{{center}}"


def latex(section: Section) -> str:
    r"""A `table` for each block, no wider than the line, and the notes after the last one.

    `\usepackage{booktabs,graphicx}` is all it needs.
    """
    lines = [NEEDS]
    for number, block in enumerate(section.blocks):
        caption = section.caption if number == 0 else ""
        legend = LEGEND if marked([block]) else ""
        for page, rows in enumerate(_pages(block)):
            title = f"{block.title}{', continued' if page else ''}."
            told = [escape_latex(title), "" if page else escape_latex(caption), legend]
            lines += _table(block, rows, " ".join(part for part in told if part))
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


_SIGNS = {
    **{char: "\\" + char for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\`{}",
    '"': "''",
    "[": "{[}",  # a row that begins with one would be read as the option of the line break before it
    "]": "{]}",
    "*": "{*}",  # so would this one
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": r"$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "\N{GREEK SMALL LETTER RHO}": r"$\rho$",
    "\N{GREEK SMALL LETTER TAU}": r"$\tau$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "…": r"\ldots{}",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{LEFT SINGLE QUOTATION MARK}": r"\textquoteleft{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": r"\textquotedblleft{}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": r"\textquotedblright{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ß": r"\ss{}",
}
_COMBINING = "\u0300\u0301\u0302\u0303\u0308\u0304\u0306\u0307\u030a\u030b\u030c\u0327"
_ACCENTS = dict(zip(_COMBINING, "`'^~\"=u.rHvc", strict=True))
"""Combining accent -> LaTeX's command for it, in whatever font encoding."""


def _character(char: str) -> str:
    if char in _SIGNS:
        return _SIGNS[char]
    if " " <= char <= "~":
        return char
    base, *accents = list(unicodedata.normalize("NFD", char))
    if len(accents) == 1 and accents[0] in _ACCENTS and base.isascii() and base.isalpha():
        return rf"\{_ACCENTS[accents[0]]}{{{base}}}"
    return rf"\texttt{{U+{ord(char):04X}}}"


def escape_latex(value: str) -> str:
    """Text that LaTeX prints as it stands."""
    escaped = "".join(map(_character, one_line(value)))
    return escaped.replace("--", "-{}-").replace("--", "-{}-")  # two hyphens would join to a dash
