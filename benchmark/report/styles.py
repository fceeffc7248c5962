"""How a table looks in Markdown and on a terminal, and which of its columns are figures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from benchmark.report.section import Block

WIDTH = 110
"""Columns of prose on a terminal."""
LEGEND = {
    "markdown": "Best in **bold**, second <ins>underlined</ins>.",
    "text": "* best, + second.",
}
NO_FIGURE = {
    "", "n/a", "-", "\N{EN DASH}", "\N{MINUS SIGN}", "oom", "failed", "killed", "interrupted", "not stated",
}  # fmt: skip
"""Cells that say nothing of the kind of their column."""
_NUMBER = re.compile(
    r"(?:[<>=~≈≤≥]\s*)?"
    r"(?P<sign>[-+\N{MINUS SIGN}]?)(?P<value>(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[-+]?\d+)?)"
    r"(?=$|[\s%/*†‡)\N{MULTIPLICATION SIGN}]|x\b)",
    re.IGNORECASE,
)


def number(text: str) -> float | None:
    """The number that a cell begins with, by which a column is sorted; None for words.

    `.0939 ± .0075` is .0939, `1,234 GPU` is 1234, `<.001` is .001; a name like `3-gram` is a word.
    """
    found = _NUMBER.match(text.strip())
    if not found or not any(char.isdigit() for char in found["value"]):
        return None
    value = float(found["value"].replace(",", ""))
    return value if found["sign"] in {"", "+"} else -value


def numeric(block: Block) -> list[bool]:
    """Which columns hold figures: not the first one, nor one half of whose cells are words."""
    found = [False]
    for column in range(1, len(block.heads)):
        texts = [row[column].text.strip() for row in block.rows]
        said = [text for text in texts if text not in NO_FIGURE]
        figures = sum(number(text) is not None for text in said)
        found.append(not said or 2 * figures > len(said))
    return found


def marked(blocks: Sequence[Block]) -> bool:
    """Whether there is a best cell, and so something for the legend to explain."""
    return any(cell.mark for block in blocks for row in block.rows for cell in row)


def markdown(caption: str, blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """GitHub-flavoured Markdown."""
    from tabulate import tabulate

    marks = {"": "{}", "best": "**{}**", "second": "<ins>{}</ins>"}
    parts = [escape_markdown(caption)]
    for block in blocks:
        body = [[marks[cell.mark].format(escape_markdown(cell.text)) for cell in row] for row in block.rows]
        heads = [escape_markdown(head) for head in block.heads]
        table = tabulate(body, heads, tablefmt="pipe", disable_numparse=True, colalign=_alignment(block))
        parts += [f"**{escape_markdown(block.title)}**", table]
    parts += [
        LEGEND["markdown"] if marked(blocks) else "",
        "\n".join(f"- {escape_markdown(n)}" for n in notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def text(caption: str, blocks: Sequence[Block], notes: Sequence[str]) -> str:
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
    legend = [LEGEND["text"]] if marked(blocks) else []
    said = [line for note in (*legend, *notes) for line in textwrap.wrap(note, WIDTH)]
    parts += ["\n".join(said)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _alignment(block: Block) -> list[str]:
    return ["right" if figures else "left" for figures in numeric(block)]


def escape_markdown(value: str) -> str:
    """Text that Markdown prints as it stands, also in a table; `_` inside a word is safe."""
    return re.sub(r"[\\`*|<>\[\]&~$]|^#|(?<!\w)_|_(?!\w)", r"\\\g<0>", one_line(value))


def fenced(code: str) -> str:
    """A block of code; the fence is longer than any in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
    return f"{fence}\n{code}\n{fence}"


def one_line(value: str) -> str:
    """White space of any kind as single blanks; what has no look at all as its code."""
    return visible(" ".join(value.split()))


def visible(value: str) -> str:
    """Control characters, and those that turn the direction of what follows, as their code: `\\x1b`."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], value)


_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
