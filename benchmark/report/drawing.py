"""How all plots look, and how they become bytes.

Colours are Okabe and Ito's, which the colour-blind tell apart (https://jfly.uni-koeln.de/color/); line
styles, markers and hatches differ too, so that a print without colour can be read.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from benchmark.escape import visible_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
MARKERS = "osD^vPX"
FITTING = 84
"""Characters of a row of a legend, beside its lines."""
LEGEND, TITLE = 460.0, 440.0
"""Points that a label of a legend below a plot may be wide, and a title above one."""
LARGE = 10.8
"""Points of the letters of a title."""
ENTRY, LINE = 0.25, 0.15
"""Inches of a row of a legend, and of a further line of a label."""


@contextmanager
def new_figure(height: float, width: float = 7.5) -> Iterator[Figure]:
    """A figure of this size in inches, to be drawn and saved within the context.

    It has our look, whatever the user's own is, so that equal records give equal bytes.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    ours = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "text.parse_math": False,  # a `$` in a name is a `$`
        "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],  # the first two are equally wide
        "svg.fonttype": "none",
        "svg.hashsalt": "adaptrec",
        "savefig.dpi": 150,
    }
    with matplotlib.style.context(["default", ours]):
        yield Figure(figsize=(width, height), layout="constrained")


def forms(figure: Figure) -> dict[str, bytes]:
    """The figure as PNG and SVG, laid out once; equal figures give equal bytes."""
    png = _bytes(figure, "png")
    figure.set_layout_engine("none")  # where the PNG's parts lie, those of the SVG do
    return {"png": png, "svg": _bytes(figure, "svg")}


def _bytes(figure: Figure, form: str) -> bytes:
    file = io.BytesIO()
    silent = ("Software",) if form == "png" else ("Date", "Creator", "Format", "Type")
    figure.savefig(file, format=form, metadata=dict.fromkeys(silent))
    return file.getvalue() if form == "png" else _shortened(file.getvalue().decode()).encode()


def _shortened(svg: str) -> str:
    """The SVG with coordinates to a hundredth of a point, repeated styles named once, and nothing undrawn.

    One tag a line, so that a changed plot has a short diff.
    """
    svg = re.sub(r"^.*?(?=<svg)", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _short_tag(" ".join(tag[0].split())), svg)
    svg = re.sub(r">\n *<", ">\n<", svg)
    while (flatter := re.sub(r"<g>\n((?:(?!</?g\b).)*)</g>\n", r"\1", svg, flags=re.DOTALL)) != svg:
        svg = flatter
    uses = Counter(re.findall(r' style="([^"]*)"', svg))
    classes = {style: f"s{number}" for number, style in enumerate(uses) if uses[style] > 1}
    for style, name in classes.items():
        svg = svg.replace(f' style="{style}"', f' class="{name}"')
    rules = "\n".join(f".{name}{{{style}}}" for style, name in classes.items())
    return svg.replace("</style>", f"\n{rules}</style>", 1)


def _short_tag(tag: str) -> str:
    tag = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r' id="[a-z][\w.]*_\d+"| transform="rotate\(-0 [^"]*"| type="text/css"', "", tag)
    return re.sub(r"([:;]) | (?=[\"/]+>)| (?=\")", r"\1", tag)


def look_of(place: int) -> dict[str, Any]:
    """Colour, line style and marker of a row, as matplotlib takes them: 28 that differ."""
    turn, colour = divmod(place, len(COLOURS))
    line, marker = LINES[(colour + turn) % len(LINES)], MARKERS[(colour + turn) % len(MARKERS)]
    return {"color": COLOURS[colour], "linestyle": line, "marker": marker}


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str = "") -> None:
    """A legend below the axes, for which the figure grows; two columns where two labels fit side by side."""
    wide = 2 if 2 * max(map(len, labels), default=0) < FITTING else 1
    texts = [wrapped(label, LEGEND / wide) for label in labels]
    figure.set_figheight(figure.get_figheight() + ENTRY / wide * len(texts) + further_inches(texts))
    look: dict[str, Any] = {"title": title or None, "alignment": "left", "handlelength": 3.4}
    figure.legend(handles, texts, loc="outside lower left", ncols=wide, **look)


def wrapped_title(text: str, room: float = TITLE) -> str:
    """A title in lines that are at most `room` points wide."""
    return wrapped(text, room, LARGE)


def wrapped(text: str, room: float, size: float = 9.0, most: int = 8) -> str:
    """A label in lines that are at most `room` points wide in letters of `size` points, shortened to `most`
    lines. Measured, since letters differ in width."""
    text = visible_line(text)
    lines, letters = [text], len(text)
    while letters > 4 and max(sum(_advance(letter) for letter in line) for line in lines) * size > room:
        letters -= 1
        lines = textwrap.wrap(text, letters, break_on_hyphens=False, max_lines=most, placeholder=" ...")
    return "\n".join(lines)


@cache
def _advance(letter: str) -> float:
    """Width of a letter of one point, without kerning."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=100)
    return float(text_to_path.get_text_width_height_descent(letter, font, ismath=False)[0]) / 100


def further_inches(labels: Iterable[str]) -> float:
    """Height that labels need beyond one line each."""
    return LINE * sum(label.count("\n") for label in labels)
