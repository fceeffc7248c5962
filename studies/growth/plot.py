"""The plot of growth: a prediction's cost, memory, and evaluation over the size of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.files import write_atomically
from benchmark.report.drawing import forms, look_of, new_figure
from methods.errors import UserError
from studies.growth.record import FLAT, GrowthRecord, Size

WORDS = {"cpu_seconds": "CPU", "seconds": "wall"}


def draw(record: GrowthRecord) -> dict[str, bytes]:
    """The plot as `png` and `svg`."""
    sizes = sorted(record.measured, key=lambda size: size.items)
    if len(sizes) < 2:
        raise UserError("a plot of growth needs two sizes that were measured to the end.")
    place = record.environment
    clock = "cpu_seconds" if place is None or place.device == "cpu" else "seconds"
    with new_figure(4.2, width=9.6) as figure:
        time, memory, evaluation = figure.subplots(1, 3)
        _draw_time(time, sizes, clock)
        _draw_memory(memory, sizes)
        _draw_evaluation(evaluation, sizes, clock, _ranked(record))
        for axes in (time, memory, evaluation):
            axes.set_xscale("log")
            axes.set_xticks([size.items for size in sizes], [_short(size.items) for size in sizes])
            axes.set_xticks([], minor=True)
            axes.set_xlabel("items, as many users")
            axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.17), fontsize=8, handlelength=3.2)
        return forms(figure)


def _draw_time(axes: Any, sizes: Sequence[Size], clock: str) -> None:
    costs = [[1e6 * time for time in size.per_prediction(clock)] for size in sizes]
    middle = [median(times) for times in costs]
    flat = min(middle) * (1 + FLAT)
    axes.axhspan(min(middle), flat, color="#e6e6e6", zorder=0, label=f"{100 * FLAT:.0f} % above the least")
    _line(axes, sizes, middle, 0, "median of the steps")
    axes.set_ylim(0, 1.3 * max(middle))
    axes.set_title("training, a prediction", loc="left")
    axes.set_ylabel(f"{WORDS[clock]} µs")


def _draw_memory(axes: Any, sizes: Sequence[Size]) -> None:
    lines = {
        "peak, evaluation": [size.peak("eval") for size in sizes],
        "peak, training": [size.peak("train") for size in sizes],
        "hidden states": [size.states_bytes for size in sizes],
        "one [I, d] matrix": [size.table_bytes for size in sizes],
        "training less states": [size.rest("train") for size in sizes],
        "evaluation less both": [size.rest("eval") for size in sizes],
    }
    for place, (label, values) in enumerate(lines.items()):
        if any(values):
            _line(axes, sizes, [value / 2**20 for value in values], place, label)
    axes.set_title("memory", loc="left")
    axes.set_ylabel("MiB")
    _logarithmic(axes)


def _draw_evaluation(axes: Any, sizes: Sequence[Size], clock: str, ranked: str) -> None:
    parts = {"encode the catalogue": ("encode",), f"rank {ranked} users": ("sasrec", "rank")}
    for place, (label, names) in enumerate(parts.items()):
        values = [sum(size.evaluation(name, clock) for name in names) for size in sizes]
        slope = values[-1] / sizes[-1].items
        linear = [slope * size.items for size in sizes]
        axes.plot([size.items for size in sizes], linear, color="#888888", linewidth=0.8)
        _line(axes, sizes, values, place, label)
    axes.plot([], [], color="#888888", linewidth=0.8, label="linear, from the largest")
    axes.set_title("a validation pass", loc="left")
    axes.set_ylabel(f"{WORDS[clock]} seconds")
    _logarithmic(axes)


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _short(count: int) -> str:
    """A thousand as 1k, a million as 1M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return str(count)


def _ranked(record: GrowthRecord) -> str:
    counts = sorted({size.evaluated_users for size in record.measured})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _line(axes: Any, sizes: Sequence[Size], values: Sequence[float], place: int, label: str) -> None:
    axes.plot([size.items for size in sizes], values, markersize=4.5, label=label, **look_of(place))


def save(record: GrowthRecord, folder: Path) -> list[Path]:
    """Write `growth.png` and `growth.svg` into `folder`."""
    written = []
    for form, data in draw(record).items():
        path = folder / f"growth.{form}"
        write_atomically(path, data)
        written.append(path)
    return written
