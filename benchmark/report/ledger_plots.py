"""Bars of the whole cost, and cost over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.report.drawing import COLOURS, columns, forms, look_of, style
from benchmark.results.measures import count

if TYPE_CHECKING:
    from benchmark.report.ledger import Course

HATCHES = ("", "", "///", "---", "xx", "\\\\\\")


def draw_costs(where: str, rows: Mapping[str, Mapping[str, float]]) -> dict[str, bytes]:
    """A bar a row, stacked by what the seconds went to: `png` and `svg`."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(7.5, 1.6 + 0.32 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(where, loc="left")
        labels = list(rows)
        left = [0.0] * len(labels)
        for place, part in enumerate(next(iter(rows.values()))):
            width = [rows[label][part] for label in labels]
            if any(width):
                look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "hatch": HATCHES[place]}
                axes.barh(labels, width, left=left, height=0.68, label=part, edgecolor="white", **look)
            left = [a + b for a, b in zip(left, width, strict=True)]
        for row, total in enumerate(left):
            axes.annotate(count(total), (total, row), (4, 0), textcoords="offset points", va="center")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
        axes.set_xlabel("wall seconds")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside lower left", ncols=3, handlelength=2.4)
        return forms(figure)


def draw_epochs(
    where: str, courses: Sequence[Course], pairs: Sequence[tuple[Course, Course, float | None]]
) -> dict[str, bytes]:
    """Seconds spent by each epoch, both axes logarithmic; a dot where a cached row has paid for itself."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    crossings = [(epochs, a) for a, _, epochs in pairs if epochs]
    last = max([one.epochs for one in courses] + [2 * epochs for epochs, _ in crossings] + [10.0])
    first = min([0.1] + [epochs / 2 for epochs, _ in crossings])
    wide = columns(one.label for one in courses)
    with style():
        figure = Figure(figsize=(7.5, 4.0 + 0.24 / wide * len(courses)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(where, loc="left")
        at = [first * (last / first) ** (step / 200) for step in range(201)]
        for place, one in enumerate(courses):
            colour, _, marker = look_of(place)
            look: dict[str, Any] = {"color": colour, "linestyle": (0, (5, 1.5)) if one.tuned else "-"}
            seconds = [one.after(epochs) for epochs in at]
            ends: dict[str, Any] = {"marker": marker, "markevery": [(37 * place) % 150 + 25], "markersize": 6}
            axes.plot(at, seconds, label=one.label, linewidth=1.5, **look, **ends)
        for epochs, cached in crossings:
            dot: dict[str, Any] = {"mec": "black", "mfc": "white", "markersize": 5, "zorder": 5}
            axes.plot([epochs], [cached.after(epochs)], "o", **dot)
        axes.set(xscale="log", yscale="log", xlabel="epochs", ylabel="wall seconds in all")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        )
        said = "solid: cached; dashed: tuned" + ("\nwhite dot: break-even" if crossings else "")
        shown: dict[str, Any] = {"title": said, "alignment": "left", "handlelength": 3.4}
        figure.legend(loc="outside lower left", ncols=wide, **shown)
        return forms(figure)
