"""Learning curves, and quality against time and memory: matplotlib figures of one table's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.report.drawing import TITLE, forms, legend_below, look_of, new_figure, wrapped, wrapped_title
from benchmark.report.labels import Point, place_labels
from benchmark.results.advice import Advice, beats, clock_of
from benchmark.results.groups import RunGroup, RunRow
from benchmark.results.measures import gibibytes, peak_memory, share, unlike_candidates
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
INTERVAL = "95 % interval"
CUT = 0.5
"""Share of the best quality below which a row is named beside the picture of the answer, not drawn in it."""
SMALLER = 0.4
"""Of the bubbles of that picture, in which rows stand close together."""
LEAST = 0.01
"""Seconds at which a row without any cost stands, since the axis may be logarithmic."""
BELOW = 0.35
"""Room that learning curves have at least below the lowest chosen epoch, as a share of its value."""


def draw(group: RunGroup, kind: str) -> dict[str, bytes]:
    """The plot as `{"png": ..., "svg": ...}`; empty where no run of the group has what it shows."""
    with new_figure(HEIGHT) as figure:
        axes = _titled(figure, group, TITLE if kind == "curves" else BESIDE)
        if not (draw_curves if kind == "curves" else draw_quality)(group, figure, axes):
            return {}
        return forms(figure)


def draw_answer(advice: Advice) -> dict[str, bytes]:
    """Test Recall@10 against the total cost, with controls, bounds and the front: `png` and `svg`."""
    with new_figure(HEIGHT) as figure:
        axes = _titled(figure, advice.group, BESIDE)
        points, kind = choices_of(advice)
        least = CUT * max(point.y for point in points)
        values = [(point.label, point.y) for point in points if point.y < least]
        lines: list[tuple[str, float]] = []
        for bound in advice.group.bounds:
            if mean := bound.mean("recall@10", "test_masked"):
                (values if mean.mean < least else lines).append((bound.label, mean.mean))
        points = [point for point in points if point.y >= least]
        title = f"area: peak memory in training,\n{_kind_of_memory(kind)}"
        title += "".join(f"\nnot drawn: {name}, {share(value)}" for name, value in values)
        what = "preparation, search, and training to the best epoch"
        draw_points(
            figure,
            axes,
            points,
            f"{advice.clock.unit}: {what}",
            INTERVAL,
            title,
            "on the front",
            lines,
            SMALLER * LARGEST,
        )
        return forms(figure)


def _titled(figure: Figure, group: RunGroup, room: float) -> Axes:
    axes = figure.add_subplot()
    apart = "\nrows differ in their number of candidates: see the table" if unlike_candidates(group) else ""
    axes.set_title(wrapped_title(group.key.title, room) + apart, loc="left")
    return axes


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


def _clock(group: RunGroup) -> tuple[str, str]:
    """Figure and name of the seconds shown: CPU seconds on a CPU, whose wall time other programs disturb."""
    if clock_of(group.rows).on_cpu:
        return "epoch_cpu_seconds", "training CPU seconds of an epoch"
    return "epoch_seconds", "training seconds of an epoch"


def _peaks(rows: Sequence[RunRow]) -> tuple[list[float | None], str]:
    """Peak memory of the rows in the kind that most of them have, and that kind."""
    peaks = [peak_memory(row) for row in rows]
    kinds = [peak[1] for peak in peaks if peak]
    kind = max(("GPU", "host"), key=kinds.count)
    return [peak[0] if peak and peak[1] == kind else None for peak in peaks], kind


def _kind_of_memory(kind: str) -> str:
    return "GPU, allocated" if kind == "GPU" else "host, resident"


def points_of(group: RunGroup) -> tuple[list[Point], str]:
    """The rows with quality and seconds of an epoch, and the kind of memory shown."""
    clock = _clock(group)[0]
    peaks, kind = _peaks(group.rows)
    points = []
    for place, (row, memory) in enumerate(zip(group.rows, peaks, strict=True)):
        recall, time = row.mean("recall@10", "test_masked"), row.mean(clock)
        if recall and time and time.mean > 0:
            # the t interval of two seeds would dwarf all else
            ends = (recall.least, recall.largest) if recall.n > 1 else None
            several = f" (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{recall.n})" if recall.n > 1 else ""
            label = wrapped(row.label + several, BUBBLE, most=4)
            points.append(Point(place, label, time.mean, recall.mean, ends, memory))
    return [point._replace(on_front=not_dominated(point, points)) for point in points], kind


def choices_of(advice: Advice) -> tuple[list[Point], str]:
    """The rows with quality and total cost, controls included, and the kind of memory shown."""
    peaks, kind = _peaks([choice.row for choice in advice.choices])
    places = {row.label: place for place, row in enumerate(advice.group.run_rows)}
    points = []
    for choice, memory in zip(advice.choices, peaks, strict=True):
        half, control = choice.half_width, choice.row.untrained
        ends = None if half is None else (choice.quality - half, choice.quality + half)
        label = wrapped(choice.name, BUBBLE, most=4)
        shown = None if control else memory
        x, y, place = max(choice.cost, LEAST), choice.quality, places[choice.label]
        points.append(Point(place, label, x, y, ends, shown, control, choice.on_front))
    return points, kind


def draw_quality(group: RunGroup, figure: Figure, axes: Axes) -> bool:
    """Test Recall@10 against the training time of an epoch, the peak memory as area; what is on the front."""
    points, kind = points_of(group)
    if not points:
        return False
    title = f"n: seeds, 1 if not given\narea: peak memory in training,\n{_kind_of_memory(kind)}"
    draw_points(
        figure,
        axes,
        points,
        _clock(group)[1],
        "least to most of the seeds",
        title,
        "on the front of all three",
    )
    return True


def draw_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[Point],
    seconds: str,
    bar: str,
    title: str,
    edge_of: str,
    bounds: Sequence[tuple[str, float]] = (),
    largest: float = LARGEST,
) -> None:
    """Test Recall@10 of the points against `seconds`, what that axis shows.

    `bar` names what their bars show, `edge_of` what a black edge means.

    `bounds`, names and values, are lines across.
    """
    from matplotlib.colors import to_rgba

    most = max((point.memory for point in points if point.memory), default=1.0)
    areas = [largest * point.memory / most if point.memory else 40.0 for point in points]
    for point, area in zip(points, areas, strict=True):
        colour = look_of(point.place)["color"]
        face, mark = (to_rgba(colour, 0.65), "o") if point.memory else ("none", "D" if point.control else "X")
        edge, width = ("black", 1.6) if point.on_front else (to_rgba(colour, 0.65), 1.0)
        axes.scatter(
            point.x, point.y, s=area, marker=mark, facecolor=face, edgecolor=edge, linewidth=width, zorder=3
        )
        if point.ends:
            axes.plot([point.x] * 2, point.ends, color="black", marker="_", linewidth=0.9, zorder=4)
    _axis_of_seconds(axes, [point.x for point in points])
    axes.margins(x=0.12, y=0.2)
    axes.set_xlabel(seconds)
    axes.set_ylabel("test Recall@10, history masked")
    corners = front(points)
    handles = [*_size_legend(axes, most, points, largest), *_front_legend(axes, corners, edge_of)]
    if any(point.ends for point in points):
        look: dict[str, Any] = {"color": "black", "marker": "_", "linewidth": 0.9}
        handles += axes.plot([], [], label=bar, **look)
    for (name, value), style in zip(bounds, ("-.", ":"), strict=False):
        look = {"color": "#444444", "linestyle": style, "linewidth": 1.1}
        handles.append(axes.axhline(value, label=f"{name}: {share(value)}", **look))
    look = {"title": title, "alignment": "left", "labelspacing": 1.6, "borderpad": 1.2}
    figure.legend(handles=handles, loc="outside right upper", **look)
    place_labels(figure, axes, points, areas, corners)


def not_dominated(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point is as good in quality, seconds and memory, and better in one of them.

    Of two points of which one has no memory, quality and seconds alone decide.
    """

    def beaten_by(other: Point) -> bool:
        mine, theirs = [point.x, -point.y], [other.x, -other.y]
        if point.memory and other.memory:
            mine, theirs = [*mine, point.memory], [*theirs, other.memory]
        return beats(theirs, mine)

    return not any(map(beaten_by, points))


def front(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Corners of the steps that the best quality within a time goes up by."""
    corners: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not corners:
            corners.append((point.x, point.y))
        elif point.y > corners[-1][1]:
            corners += [(point.x, corners[-1][1]), (point.x, point.y)]
    return corners


def _front_legend(axes: Axes, corners: Sequence[tuple[float, float]], edge_of: str) -> list[Any]:
    """Draw the steps; they and the mark of points that are not dominated, for the legend."""
    dashed: dict[str, Any] = {"color": "#666666", "linewidth": 1.0, "linestyle": (0, (4, 2)), "zorder": 2}
    steps = axes.plot(*zip(*corners, strict=True), label="best within a time", **dashed)
    edge: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linewidth": 1.6}
    return [*steps, axes.scatter([], [], s=60, label=edge_of, **edge)]


def _axis_of_seconds(axes: Axes, seconds: Sequence[float]) -> None:
    """Logarithmic from a factor of ten on, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if max(seconds) < 10 * min(seconds):
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(seconds) < 300 * min(seconds) else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _size_legend(axes: Axes, most: float, points: Sequence[Point], largest: float) -> list[Any]:
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
        handles.append(axes.scatter([], [], s=largest * size / most, label=label, **look))
    signs = [("X", "memory not measured", False), ("D", "control without training", True)]
    for marker, label, control in signs:
        if any(not point.memory and point.control == control for point in points):
            look = {"facecolor": "none", "edgecolor": "#666666", "label": label}
            handles.append(axes.scatter([], [], s=40, marker=marker, **look))
    return handles
