"""Learning curves, and quality against time and memory: matplotlib figures of one table's rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.report.drawing import forms, look_of, style
from benchmark.results.groups import RunGroup, RunRow
from benchmark.results.measures import gibibytes, peak_memory, unlike_candidates
from benchmark.results.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST = 700.0
"""Area of the largest bubble in square points."""
SIZE = (7.5, 4.4)
"""Inches."""
BELOW = 0.35
"""Room that learning curves have at least below the lowest chosen epoch, as a share of its value."""


def draw(group: RunGroup, kind: str) -> dict[str, bytes]:
    """The plot as `{"png": ..., "svg": ...}`; empty where no run of the group has what it shows."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        apart = (
            "\nrows differ in their number of candidates: see the table" if unlike_candidates(group) else ""
        )
        axes.set_title(group.key.title + apart, loc="left")
        if not (draw_curves if kind == "curves" else draw_quality)(group, figure, axes):
            return {}
        return forms(figure)


def _middle_run(row: RunRow) -> RunRecord:
    """The run of the median best validation Recall@10 (the lower middle one of an even number)."""
    ranked = sorted(row.ok, key=lambda run: (max(e.valid_masked["recall@10"] for e in run.curve), run.seed))
    return ranked[(len(ranked) - 1) // 2]


def draw_curves(group: RunGroup, figure: Figure, axes: Axes) -> bool:
    """Validation Recall@10 over epochs, from epoch 0, the model before training, where a record has it.

    The median seed's line stands out, the chosen epoch has a marker.
    """
    from matplotlib.ticker import MaxNLocator

    drawn: list[list[float]] = []
    for place, row in enumerate(group.rows):
        if not row.ok or not all(run.curve for run in row.ok):
            continue
        colour, line, marker = look_of(place)
        middle = _middle_run(row)
        for run in row.ok:
            start = [run.initial["valid_masked"]["recall@10"]] if "valid_masked" in run.initial else []
            epochs = [0] * len(start) + [point.epoch for point in run.curve]
            values = start + [point.valid_masked["recall@10"] for point in run.curve]
            drawn.append(values)
            if run is not middle:
                axes.plot(epochs, values, color=colour, linewidth=0.7, alpha=0.35)
                continue
            chosen = [epochs.index(run.best_epoch)] if run.best_epoch in epochs else []
            look: dict[str, Any] = {"color": colour, "linestyle": line, "marker": marker, "markevery": chosen}
            axes.plot(
                epochs,
                values,
                label=f"{row.label} (n = {len(row.ok)})",
                linewidth=1.6,
                markersize=7,
                zorder=3,
                **look,
            )
    known = any(run.initial for row in group.rows for run in row.ok)
    axes.set_xlabel("epoch (0: before training)" if known else "epoch")
    axes.set_ylabel("validation Recall@10, history masked")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    several = any(len(row.ok) > 1 for row in group.rows)
    title = "n: seeds; marker: chosen epoch" + ("\nthin: other seeds" if several else "")
    if drawn and _cut_beginnings(axes, drawn):
        title += "\nlowest beginnings cut off"
    if drawn:
        figure.legend(loc="outside right upper", title=title, alignment="left", handlelength=3.4)
    return bool(drawn)


def _cut_beginnings(axes: Axes, curves: Sequence[Sequence[float]]) -> bool:
    """Leave out of the plot how curves climb from chance, which would press all that differs into a strip.

    Below the lowest best value stays as much room as up to the highest one. Nothing is cut for little.
    """
    lowest, highest = min(map(max, curves)), max(map(max, curves))
    floor = lowest - max(highest - lowest, BELOW * lowest)
    if floor - min(map(min, curves)) < (highest - floor) / 2:
        return False
    axes.set_ylim(floor, highest + (highest - floor) / 20)
    return True


class Point(NamedTuple):
    """A row in the plot of quality."""

    place: int
    label: str
    x: float
    y: float
    ends: tuple[float, float] | None
    """The least and the most of its seeds; None of a single one."""
    memory: float | None
    """Bytes; None where it was not measured in the kind that the plot shows."""


def _clock(group: RunGroup) -> tuple[str, str]:
    """Figure and name of the seconds shown: CPU seconds on a CPU, whose wall time other programs disturb."""
    runs = [run for row in group.rows for run in row.ok]
    if all(run.environment.device == "cpu" and run.cost.epoch_cpu_seconds is not None for run in runs):
        return "epoch_cpu_seconds", "training CPU seconds of an epoch"
    return "epoch_seconds", "training seconds of an epoch"


def points_of(group: RunGroup) -> tuple[list[Point], str]:
    """The rows with both figures, and the kind of memory shown: the one that most of them have."""
    clock = _clock(group)[0]
    peaks = {row.label: peak_memory(row) for row in group.rows}
    kinds = [peak[1] for peak in peaks.values() if peak]
    kind = max(("GPU", "host"), key=kinds.count)
    points = []
    for place, row in enumerate(group.rows):
        recall, time = row.mean("recall@10", "test_masked"), row.mean(clock)
        peak = peaks[row.label]
        if recall and time and time.mean > 0:
            memory = peak[0] if peak and peak[1] == kind else None
            # the t interval of two seeds would dwarf all else
            ends = (recall.least, recall.largest) if recall.n > 1 else None
            several = f" (n = {recall.n})" if recall.n > 1 else ""
            points.append(Point(place, row.label + several, time.mean, recall.mean, ends, memory))
    return points, kind


def draw_quality(group: RunGroup, figure: Figure, axes: Axes) -> bool:
    """Test Recall@10 against the training time of an epoch, the peak memory as area; what is on the front."""
    from matplotlib.colors import to_rgba

    points, kind = points_of(group)
    if not points:
        return False
    most = max((point.memory for point in points if point.memory), default=1.0)
    areas = [LARGEST * point.memory / most if point.memory else 40.0 for point in points]
    for point, area in zip(points, areas, strict=True):
        colour = look_of(point.place)[0]
        face, mark = (to_rgba(colour, 0.65), "o") if point.memory else ("none", "X")
        edge, width = ("black", 1.6) if not_dominated(point, points) else (to_rgba(colour, 0.65), 1.0)
        axes.scatter(
            point.x, point.y, s=area, marker=mark, facecolor=face, edgecolor=edge, linewidth=width, zorder=3
        )
        if point.ends:
            axes.plot([point.x] * 2, point.ends, color="black", marker="_", linewidth=0.9, zorder=4)
    _axis_of_seconds(axes, [point.x for point in points])
    axes.margins(x=0.12, y=0.2)
    axes.set_xlabel(_clock(group)[1])
    axes.set_ylabel("test Recall@10, history masked")
    corners = front(points)
    handles = [*_size_legend(axes, most, points), *_front_legend(axes, corners)]
    if any(point.ends for point in points):
        bar: dict[str, Any] = {"color": "black", "marker": "_", "linewidth": 0.9}
        handles += axes.plot([], [], label="least to most of the seeds", **bar)
    title = "n: seeds, 1 if not given\narea: peak memory in training,\n" + (
        "GPU, allocated" if kind == "GPU" else "host, resident"
    )
    figure.legend(
        handles=handles,
        loc="outside right upper",
        title=title,
        alignment="left",
        labelspacing=1.6,
        borderpad=1.2,
    )
    _place_labels(figure, axes, points, areas, corners)
    return True


def not_dominated(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point is as good in quality, seconds and memory, and better in one of them.

    Of two points of which one has no memory, quality and seconds alone decide.
    """

    def beats(other: Point) -> bool:
        mine, theirs = [point.x, -point.y], [other.x, -other.y]
        if point.memory and other.memory:
            mine, theirs = [*mine, point.memory], [*theirs, other.memory]
        return theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))

    return not any(beats(other) for other in points)


def front(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Corners of the steps that the best quality within a time goes up by."""
    corners: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not corners:
            corners.append((point.x, point.y))
        elif point.y > corners[-1][1]:
            corners += [(point.x, corners[-1][1]), (point.x, point.y)]
    return corners


def _front_legend(axes: Axes, corners: Sequence[tuple[float, float]]) -> list[Any]:
    """Draw the steps; they and the mark of points that are not dominated, for the legend."""
    dashed: dict[str, Any] = {"color": "#666666", "linewidth": 1.0, "linestyle": (0, (4, 2)), "zorder": 2}
    steps = axes.plot(*zip(*corners, strict=True), label="best within a time", **dashed)
    edge: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linewidth": 1.6}
    return [*steps, axes.scatter([], [], s=60, label="on the front of all three", **edge)]


def _axis_of_seconds(axes: Axes, seconds: Sequence[float]) -> None:
    """Logarithmic from a factor of ten on, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if max(seconds) < 10 * min(seconds):
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(seconds) < 300 * min(seconds) else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _size_legend(axes: Axes, most: float, points: Sequence[Point]) -> list[Any]:
    """The largest bubble and the smallest, one for both where they are alike, and the sign of a row without
    memory."""
    handles = []
    sizes = [point.memory for point in points if point.memory]
    least = min(sizes, default=most)
    ends = [f"{gibibytes(size)} GiB" for size in (most, least)]
    sizes_of = {ends[0]: most, ends[1]: least}
    if least > most / 2:
        sizes_of = {ends[0] if ends[0] == ends[1] else f"{gibibytes(least)} to {ends[0]}": most}
    look: dict[str, Any] = {"facecolor": "#bbbbbb", "edgecolor": "#666666"}
    for label, size in sizes_of.items() if sizes else ():
        handles.append(axes.scatter([], [], s=LARGEST * size / most, label=label, **look))
    if not all(point.memory for point in points):
        look = {"facecolor": "none", "edgecolor": "#666666", "label": "not measured"}
        handles.append(axes.scatter([], [], s=40, marker="X", **look))
    return handles


GAPS = ((3.0, 8), (14.0, 16), (28.0, 24), (44.0, 24), (62.0, 24))
"""Points between a bubble and its label, tried from the nearest, and in how many directions."""


def _place_labels(
    figure: Figure,
    axes: Axes,
    points: Sequence[Point],
    areas: Sequence[float],
    corners: Sequence[tuple[float, float]],
) -> None:
    """Write each label at the nearest place where it hides no bubble, label, edge or step of the front.

    A label that is not at its bubble gets a line to it, which counts as taken room too.
    """
    figure.draw_without_rendering()  # fixes the axes, so that pixels can be counted
    figure.set_layout_engine("none")
    scale = figure.dpi / 72  # pixels of a point
    radii = [math.sqrt(area / math.pi) * scale for area in areas]
    taken = [
        box for point, radius in zip(points, radii, strict=True) for box in _drawn_at(axes, point, radius)
    ]
    seen = axes.transData.transform(corners)
    taken += [
        Box(min(a, c) - 2, min(b, d) - 2, max(a, c) + 2, max(b, d) + 2) for (a, b), (c, d) in pairwise(seen)
    ]
    for point, radius in zip(points, radii, strict=True):
        x, y = axes.transData.transform((point.x, point.y))
        colour = look_of(point.place)[0]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": radius / scale}
        look: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "zorder": 5}
        note = axes.annotate(point.label, (point.x, point.y), (0, 0), arrowprops=line, **look)
        extent = note.get_window_extent()
        size = (extent.width, extent.height)
        tried = [
            LabelPlace.at((x, y), radius + gap * scale, turn / turns * math.tau, size=size, line=number > 0)
            for number, (gap, turns) in enumerate(GAPS)
            for turn in range(turns)
        ]
        best = min(tried, key=lambda place: place.cost(taken, axes.bbox))
        note.set_position(((best.x - x) / scale, (best.y - y) / scale))
        if note.arrow_patch is not None:
            note.arrow_patch.set_visible(best.line != ())
        taken += [best.box, *best.line]


class Box(NamedTuple):
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: Any) -> float:
        """Square pixels that both cover."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(float(width), 0.0) * max(float(height), 0.0)


def _drawn_at(axes: Axes, point: Point, radius: float) -> Iterator[Box]:
    """The room of a bubble and of its error bar."""
    x, y = axes.transData.transform((point.x, point.y))
    yield Box(x - radius, y - radius, x + radius, y + radius)
    if point.ends:
        low, high = (axes.transData.transform((point.x, end))[1] for end in point.ends)
        yield Box(x - 3, low, x + 3, high)


class LabelPlace(NamedTuple):
    """Where a label might stand: its centre and box, and the line to its bubble as a chain of small boxes."""

    x: float
    y: float
    box: Box
    line: tuple[Box, ...]
    reach: float

    @classmethod
    def at(
        cls, centre: tuple[float, float], reach: float, turn: float, *, size: tuple[float, float], line: bool
    ) -> LabelPlace:
        """The box nearest to a circle of radius `reach` about `centre`, in the direction `turn`."""
        (x, y), (width, height) = centre, size
        dx, dy = math.cos(turn), math.sin(turn)
        side = width / 2 if dx > 1e-9 else -width / 2 if dx < -1e-9 else 0
        cx, cy = x + dx * reach + side, y + dy * (reach + height / 2)
        box = Box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        steps = [step / 25 for step in range(2, 25)] if line else []
        chain = [(x + (cx - x) * step, y + (cy - y) * step) for step in steps]
        links = [Box(a - 1.5, b - 1.5, a + 1.5, b + 1.5) for a, b in chain]
        return cls(cx, cy, box, tuple(link for link in links if not box.overlap(link)), reach)

    def cost(self, taken: Sequence[Box], frame: Any) -> float:
        """Square pixels of others that it covers, of itself outside the frame, and a little for distance."""
        outside = (self.box.x1 - self.box.x0) * (self.box.y1 - self.box.y0) - self.box.overlap(frame)
        return (
            self.reach / 2
            + outside
            + sum(part.overlap(other) for part in (self.box, *self.line) for other in taken)
        )
