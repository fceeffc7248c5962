"""Data are data: one function for each form of output, which writes text of other people so that no program
obeys it.

Names, ids, titles, settings and messages come from data, records and packages of other people. A terminal, a
spreadsheet, Markdown or LaTeX would take some of their characters for commands. Jinja2 writes HTML and
escapes every value. docs/threat-model.md lists the outputs.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# --- Terminals, and what no form of text shows

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # direction of writing
    "\u2028\u2029"  # separators of lines
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # byte order mark, annotations, tags
    "\ud800-\udfff]"  # bytes that are no text, which no encoding takes
)


def visible(text: str) -> str:
    r"""Characters that control a terminal or the direction of writing become escapes: `\x1b`, `\u202e`."""
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)


def visible_line(text: str, limit: int | None = None) -> str:
    r"""The same on one line: line ends and tabs become `\n` and `\t`. Cut to `limit` characters first."""
    cut = text if limit is None or len(text) <= limit else f"{text[: limit - 3]}..."
    return visible(cut).replace("\n", "\\n").replace("\t", "\\t")


def one_line(text: str) -> str:
    """Prose on one line: white space of any kind as single blanks."""
    return visible(" ".join(text.split()))


# --- JSON


def json_line(value: Any) -> str:
    """JSON on one line of printable ASCII, which can drive no terminal."""
    return json.dumps(value).replace("\x7f", "\\u007f")  # the one control character that json leaves


# --- CSV

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula, after blanks, which some spreadsheets drop; some take wide signs as well."""
_WHOLE_NUMBER = re.compile(r"[-+]?(\d[\d,]*)?(\.\d+)?(e[-+]?\d+)?( ?%)?", re.IGNORECASE)


def csv_cell(value: Any) -> Any:
    """A cell on one line that no spreadsheet takes for a formula: text that begins like one, and is no
    number, gets an apostrophe before it, which spreadsheets read as "this is text". Numbers stay."""
    if not isinstance(value, str):
        return value
    formula = value.lstrip().startswith(FORMULA) and not _WHOLE_NUMBER.fullmatch(value)
    return f"'{visible_line(value)}" if formula else visible_line(value)


# --- Markdown

_MARKDOWN = re.compile(
    r"[\\`*|<>\[\]&~$]|(?<!\w)_|_(?!\w)"
    r"|^#|^[-+](?= )|^[-=](?=[-= ]+$)"  # a heading, an item of a list, a rule
    r"|:(?=//)|(?<=www)\."  # an address of which GitHub makes a link
)


def escape_markdown(value: str) -> str:
    """Text that Markdown prints as it stands, at the start of a line and in a table; no list, heading, rule
    or address for a link comes of it. `_` inside a word is safe."""
    escaped = _MARKDOWN.sub(r"\\\g<0>", one_line(value))
    return re.sub(r"^(\d+)([.)])(?= )", r"\1\\\2", escaped)


def code_span(value: str) -> str:
    """Text as code within a line, not in a table; the fence is longer than any in it."""
    fence, pad = _fence(value, 1), " " if "`" in value else ""
    return f"{fence}{pad}{one_line(value) or ' '}{pad}{fence}"


def fenced(code: str, language: str = "") -> str:
    """A block of code; the fence is longer than any in it."""
    fence = _fence(code, 3)
    return f"{fence}{language}\n{visible(code)}\n{fence}"


def _fence(code: str, least: int) -> str:
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", code))])


# --- LaTeX

_SIGNS = r"""
& \&   % \%   $ \$   # \#   _ \_   { \{   } \}   [ {[}   ] {]}   * {*}   ` \`{}   " ''   ’ '
\ \textbackslash{}   ~ \textasciitilde{}   ^ \textasciicircum{}   < \textless{}   > \textgreater{}
| \textbar{}   – \textendash{}   — \textemdash{}   … \ldots{}
‘ \textquoteleft{}   “ \textquotedblleft{}   ” \textquotedblright{}
± $\pm$   × $\times$   − $-$   · $\cdot$   ≤ $\leq$   ≥ $\geq$   ≈ $\approx$   → $\rightarrow$   ° $^\circ$
Δ $\Delta$   α $\alpha$   ρ $\rho$   τ $\tau$   † \dag{}   ‡ \ddag{}
æ \ae{}   Æ \AE{}   œ \oe{}   Œ \OE{}   ø \o{}   Ø \O{}   ł \l{}   Ł \L{}   ß \ss{}
"""  # noqa: RUF001
"""Pairs of a character and its LaTeX. Where a row begins with one of `[]*`, LaTeX would take the sign for an
option of the line break before it, were it not in braces."""
_LATEX = dict(zip(_SIGNS.split()[::2], _SIGNS.split()[1::2], strict=True))
_COMBINING = "\u0300\u0301\u0302\u0303\u0308\u0304\u0306\u0307\u030a\u030b\u030c\u0327"
_ACCENTS = dict(zip(_COMBINING, "`'^~\"=u.rHvc", strict=True))
"""Combining accent -> LaTeX's command for it, in whatever font encoding."""


def _character(char: str) -> str:
    if char in _LATEX:
        return _LATEX[char]
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
