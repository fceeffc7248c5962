"""Learning curves, and quality against time and memory: matplotlib figures of one table's rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.report.drawing import TITLE, forms, legend_below, look_of, new_figure, wrapped, wrapped_title
from benchmark.results.groups import RunGroup, RunRow
from benchmark.results.measures import gibibytes, peak_memory, unlike_candidates
from benchmark.results.metrics import Floats
from benchmark.results.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST = 700.0
"""Area of the largest bubble in square points."""
HEIGHT = 4.4
"""Inches, without a legend below."""
BESIDE, BUBBLE = 290.0, 150.0
"""Points that a title beside a legend may be wide, and the label of a bubble."""
BELOW = 0.35
"""Room that learning curves have at least below the lowest chosen epoch, as a share of its value."""


def draw(group: RunGroup, kind: str) -> dict[str, bytes]:
    """The plot as `{"png": ..., "svg": ...}`; empty where no run of the group has what it shows."""
    with new_figure(HEIGHT) as figure:
        axes = figure.add_subplot()
        apart = (
            "\nrows differ in their number of candidates: see the table" if unlike_candidates(group) else ""
        )
        title = wrapped_title(group.key.title, TITLE if kind == "curves" else BESIDE)
        axes.set_title(title + apart, loc="left")
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
        look, middle = look_of(place), _middle_run(row)
        for run in row.ok:
            start = [run.initial["valid_masked"]["recall@10"]] if "valid_masked" in run.initial else []
            epochs = [0] * len(start) + [point.epoch for point in run.curve]
            values = start + [point.valid_masked["recall@10"] for point in run.curve]
            drawn.append(values)
            if run is not middle:
                axes.plot(epochs, values, color=look["color"], linewidth=0.7, alpha=0.35)
                continue
            chosen = [epochs.index(run.best_epoch)] if run.best_epoch in epochs else []
            bold: dict[str, Any] = {"linewidth": 1.6, "markersize": 7, "markevery": chosen, "zorder": 3}
            axes.plot(epochs, values, label=f"{row.label} (n = {len(row.ok)})", **look, **bold)
    known = any(run.initial for row in group.rows for run in row.ok)
    axes.set_xlabel("epoch (0: before training)" if known else "epoch")
    axes.set_ylabel("validation Recall@10, history masked")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    several = any(len(row.ok) > 1 for row in group.rows)
    title = "n: seeds; marker: chosen epoch" + ("\nthin: other seeds" if several else "")
    if drawn and _cut_beginnings(axes, drawn):
        title += "\nlowest beginnings cut off"
    if drawn:
        legend_below(figure, *axes.get_legend_handles_labels(), title)
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
            several = f" (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{recall.n})" if recall.n > 1 else ""
            points.append(
                Point(
                    place, wrapped(row.label + several, BUBBLE, most=4), time.mean, recall.mean, ends, memory
                )
            )
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
        colour = look_of(point.place)["color"]
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
LINKS = np.arange(2, 25)[:, None] / 25  # [L, 1]
"""Where the boxes that a line is taken for stand between a bubble and its label."""
Boxes = Floats
"""`[..., 4]` left, lower, right and upper ends in pixels."""


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
    to_pixels, scale = axes.transData.transform, figure.dpi / 72  # pixels of a point
    radii = np.sqrt(np.array(areas) / np.pi) * scale
    frame = np.array(axes.bbox.extents)  # [4]
    centres = to_pixels([(point.x, point.y) for point in points])  # [P, 2]
    ends = to_pixels([(point.x, end) for point in points for end in point.ends or (point.y, point.y)])
    steps = to_pixels(corners)  # [S, 2]
    taken = np.concatenate(
        [
            _around(centres, centres, radii[:, None]),
            _around(ends[::2], ends[1::2], np.array([3, 0])),
            _around(np.minimum(steps[:-1], steps[1:]), np.maximum(steps[:-1], steps[1:]), 2),
        ]
    )  # [N, 4]
    for point, centre, radius in zip(points, centres, radii, strict=True):
        colour = look_of(point.place)["color"]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": radius / scale}
        look: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "zorder": 5}
        note = axes.annotate(point.label, (point.x, point.y), (0, 0), arrowprops=line, **look)
        size = np.array(note.get_window_extent().size)
        middle, box, links = _best_place(centre, radius, scale, size, taken, frame)
        note.set_position((middle - centre) / scale)
        if note.arrow_patch is not None:
            note.arrow_patch.set_visible(len(links) > 0)
        taken = np.concatenate([taken, box[None], links])


def _best_place(
    centre: Floats, radius: float, scale: float, size: Floats, taken: Boxes, frame: Boxes
) -> tuple[Floats, Boxes, Boxes]:
    """The middle `[2]` of a label of this size about a bubble, its box `[4]`, and those of its line `[L, 4]`.

    It is the place of least cost inside the frame: square pixels that it covers of what is `taken`, and a
    little for distance.
    """
    tried = [(gap, turn / turns, ring > 0) for ring, (gap, turns) in enumerate(GAPS) for turn in range(turns)]
    gap, turn, apart = np.array(tried).T  # [C] each
    reach = radius + gap * scale
    direction = np.stack([np.cos(turn * math.tau), np.sin(turn * math.tau)], axis=1)  # [C, 2]
    side = np.stack([np.sign(direction[:, 0].round(9)), direction[:, 1]], axis=1)  # [C, 2] of the label
    middles = centre + direction * reach[:, None] + side * size / 2  # [C, 2]
    middles = np.clip(middles, frame[:2] + size / 2, frame[2:] - size / 2)  # none is cut at an edge
    boxes = _around(middles, middles, size / 2)  # [C, 4]
    chain = centre + (middles - centre)[:, None] * LINKS  # [C, L, 2]
    links = _around(chain, chain, 1.5)  # [C, L, 4]
    seen = (apart[:, None] > 0) & (overlap(links, boxes[:, None]) == 0)  # [C, L]
    covered = overlap(boxes[:, None], taken).sum(1)  # [C, N] -> [C]
    crossed = (overlap(links[:, :, None], taken).sum(2) * seen).sum(1)  # [C, L, N] -> [C, L] -> [C]
    cost = covered + crossed + reach / 2  # [C]
    best = int(cost.round(6).argmin())  # of places as good, the first on any machine
    return middles[best], boxes[best], links[best, seen[best]]


def _around(low: Floats, high: Floats, margin: Floats | float) -> Boxes:
    """Boxes from `low` to `high`, both `[..., 2]`, and a margin about them."""
    return np.concatenate([low - margin, high + margin], axis=-1)  # [..., 4]


def overlap(a: Boxes, b: Boxes) -> Floats:
    """Square pixels that boxes share, `[...]`."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # [..., 2]
    area: Floats = sides.clip(0).prod(-1)  # [..., 2] -> [...]
    return area
