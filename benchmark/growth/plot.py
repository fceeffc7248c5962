"""The plot of growth: a prediction's cost, memory, and evaluation over the size of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.growth.record import FLAT, GrowthRecord
from benchmark.record import write_atomically
from benchmark.report.drawing import forms, look_of, style
from methods.errors import UserError


def draw(record: GrowthRecord) -> dict[str, bytes]:
    """The plot as `png` and `svg`."""
    from matplotlib.figure import Figure

    sizes = sorted(record.measured, key=lambda size: size.items)
    if len(sizes) < 2:
        raise UserError("a plot of growth needs two sizes that were measured to the end.")
    place = record.environment
    clock = "cpu_seconds" if place is None or place.device == "cpu" else "seconds"
    word = "CPU" if clock == "cpu_seconds" else "wall"
    items = [size.items for size in sizes]
    with style():
        figure = Figure(figsize=(9.6, 3.5), layout="constrained")
        time, memory, evaluation = figure.subplots(1, 3)
        costs = [[1e6 * one for one in size.per_prediction(clock)] for size in sizes]
        middle = [median(one) for one in costs]
        time.axhspan(min(middle), min(middle) * (1 + FLAT), color="#e6e6e6", zorder=0)
        time.annotate(
            f"{100 * FLAT:.0f} %", (items[0], min(middle) * (1 + FLAT)), (0, -3),
            textcoords="offset points", va="top", color="#555555",
        )  # fmt: skip
        _line(time, items, middle, 0, "")
        time.set_ylim(0, 1.35 * max(middle))
        time.set_ylabel(f"{word} µs a prediction, training")
        mib = 2**20
        for number, (label, values) in enumerate(
            {
                "peak, evaluation": [size.peak("eval") / mib for size in sizes],
                "peak, training": [size.peak("train") / mib for size in sizes],
                "states": [size.states_bytes / mib for size in sizes],
                "one [I, d] matrix": [size.table_bytes / mib for size in sizes],
                "evaluation less both": [size.rest("eval") / mib for size in sizes],
            }.items()
        ):
            if any(values):
                _line(memory, items, values, number, label)
        memory.set_ylabel("MiB")
        memory.set_yscale("log")
        for number, (label, part) in enumerate({"encode the catalogue": "encode", "rank": "rank"}.items()):
            values = [size.evaluation(part, clock) for size in sizes]
            shown = label if part == "encode" else f"{label} {_ranked(record)} users"
            _line(evaluation, items, values, number, shown)
        slope = sizes[-1].evaluation("encode", clock) / items[-1]
        evaluation.plot(
            items, [slope * count for count in items], color="#555555", linewidth=0.8, label="linear"
        )
        evaluation.set_yscale("log")
        evaluation.set_ylabel(f"{word} seconds a validation pass")
        for axes in (time, memory, evaluation):
            axes.set_xscale("log")
            axes.set_xlabel("items, as many users")
            if axes is not time:
                axes.legend(fontsize=7.5, handlelength=3)
        return forms(figure)


def _ranked(record: GrowthRecord) -> str:
    counts = sorted({size.evaluated_users for size in record.measured})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _line(axes: Any, x: Sequence[float], y: Sequence[float], place: int, label: str) -> None:
    colour, line, marker = look_of(place)
    axes.plot(x, y, color=colour, linestyle=line, marker=marker, markersize=4.5, label=label or None)


def save(record: GrowthRecord, folder: Path) -> list[Path]:
    """Write `growth.png` and `growth.svg` into `folder`."""
    written = []
    for form, data in draw(record).items():
        path = folder / f"growth.{form}"
        write_atomically(path, data)
        written.append(path)
    return written
