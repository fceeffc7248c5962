"""The paper's figures and ours side by side, with differences: a row a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.report.derived import mean_ratio, pairs
from benchmark.report.measured import LABELS, Study
from benchmark.report.study_tables import (
    MISSING,
    Show,
    cell,
    columns,
    fixed,
    marked,
    show_memory,
    show_plain,
    show_quality,
    show_seconds,
)
from benchmark.report.styles import Block, Cell
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS, Figure, Layout
from benchmark.results.record import METRICS

PAIR_HEADS = ["paper", "ours", "difference"]
RELATIVE = "relative %"


@dataclass(frozen=True)
class Line:
    """One comparison."""

    labels: tuple[str, ...]
    paper: Figure | None
    ours: Figure | None


def common(paper: Study, ours: Study) -> list[str]:
    """Datasets that both have, in the paper's order."""
    return [dataset for dataset in paper.datasets if dataset in ours.datasets]


def block(
    title: str,
    heads: Sequence[str],
    lines: Iterable[Line],
    show: Show,
    compete: bool = False,
    relative: bool = True,
) -> Block | None:
    """A table of comparisons; None where neither side has anything. The difference is ours minus the paper's.

    `relative` adds it in per cent of the paper's. With `compete`, the best and the second of each side are
    marked among the lines with equal last label.
    """
    kept = [line for line in lines if line.paper or line.ours]
    if not kept:
        return None
    sides = [_side(kept, [line.paper for line in kept], show, compete)]
    sides += [_side(kept, [line.ours for line in kept], show, compete)]
    rows = []
    for number, line in enumerate(kept):
        told = [Cell(label) for label in line.labels]
        rows.append([*told, sides[0][number], sides[1][number], *_difference(line, show)[: 1 + relative]])
    return Block(title, [*heads, *PAIR_HEADS, *([RELATIVE] if relative else [])], rows)


def _side(lines: Sequence[Line], figures: Sequence[Figure | None], show: Show, compete: bool) -> list[Cell]:
    if not compete:
        return [cell(one, show) for one in figures]
    found: dict[int, Cell] = {}
    for family in dict.fromkeys(line.labels[-1] for line in lines):
        places = [number for number, line in enumerate(lines) if line.labels[-1] == family]
        found |= dict(zip(places, marked([figures[place] for place in places], show), strict=True))
    return [found[place] for place in range(len(lines))]


def _difference(line: Line, show: Show) -> list[Cell]:
    if line.paper is None or line.ours is None:
        return [Cell(MISSING), Cell(MISSING)]
    gap = line.ours.value - line.paper.value
    absolute = show(replace(line.paper, value=abs(gap)))
    sign = "" if not any(digit in absolute for digit in "123456789") else "-" if gap < 0 else "+"
    relative = fixed(100 * gap / line.paper.value, sign="+") if line.paper.value else MISSING
    return [Cell(sign + absolute), Cell(relative)]


def quality(paper: Study, ours: Study, layout: Layout, kind: str, prefix: str) -> list[Block | None]:
    """Tables 2 to 4 (`kind` quality) or 8 (integration): a table a dataset, a row a method and metric.

    The paper's figure, which does not say whether the history is masked, stands beside ours under `prefix`:
    "" (raw) or MASKED.
    """
    methods: Sequence[str] = layout.tables[kind].methods
    if kind == "quality":
        methods = columns(ours, layout, methods, [prefix + metric for metric in METRICS])
    found = []
    for dataset in common(paper, ours):
        lines = [
            Line(
                (method, measure(metric).label),
                paper.get(dataset, method, metric),
                ours.get(dataset, method, prefix + metric),
            )
            for metric in METRICS
            for method in methods
        ]
        said = "with the user's history masked" if prefix else "raw"
        title = f"{ours.datasets[dataset]}, ours {said}"
        found.append(block(title, ["method", "metric"], lines, show_quality, compete=True))
    return found


def ratios(
    paper: Study, ours: Study, layout: Layout, kind: str, measures: Sequence[tuple[str, str]],
    baselines: Sequence[str], title: str,
) -> Block | None:  # fmt: skip
    """Improvements, speedups or reductions of the proposed method, each side's mean over the datasets that
    both have. `measures`: (the paper's, ours)."""
    datasets = common(paper, ours)
    lines = [
        Line(
            (baseline, LABELS.get(printed, printed)),
            _mean(paper, layout, kind, baseline, printed, datasets),
            _mean(ours, layout, kind, baseline, own, datasets),
        )
        for printed, own in measures
        for baseline in baselines
    ]
    return block(title, ["over", "measure"], lines, lambda one: fixed(one.value), relative=kind == "speedup")


def _mean(
    study: Study, layout: Layout, kind: str, baseline: str, measure: str, datasets: Sequence[str]
) -> Figure | None:
    value = mean_ratio(kind, pairs(study, layout.subject, baseline, measure, datasets))
    return None if value is None else Figure(kind, value, source=study.source)


def costs(paper: Study, ours: Study, layout: Layout, kind: str, measure: str, title: str) -> Block | None:
    """Tables 6 and 7: a row a dataset and method."""
    methods = columns(ours, layout, layout.tables[kind].methods, [measure])
    lines = [
        Line(
            (ours.datasets[dataset], method),
            paper.get(dataset, method, measure),
            ours.get(dataset, method, measure),
        )
        for dataset in common(paper, ours)
        for method in methods
    ]
    show = show_seconds if kind == "time" else show_memory
    return block(title[0].upper() + title[1:], ["dataset", "method"], lines, show)


def best(paper: Study, ours: Study, layout: Layout) -> Block | None:
    """Tables S1 to S3: a row a dataset and hyper-parameter."""
    lines = [
        Line(
            (ours.datasets[dataset], f"{column.method} {column.hyperparameter}"),
            paper.get(dataset, column.method, column.hyperparameter),
            ours.get(dataset, column.method, column.hyperparameter),
        )
        for dataset in common(paper, ours)
        for column in layout.columns
    ]
    return block("Best hyper-parameters", ["dataset", "hyper-parameter"], lines, show_plain)


def statistics(
    printed: Mapping[str, Mapping[str, Figure]], counts: Mapping[str, tuple[str, Mapping[str, float]]]
) -> Block | None:
    """Table 1: a row a dataset and count. `printed`: dataset -> count -> the paper's figure."""
    lines = []
    for dataset, (shown, known) in counts.items():
        for name in COUNTS:
            own = Figure(name, known[name], dataset, source="ours") if name in known else None
            lines.append(Line((shown, name), printed.get(dataset, {}).get(name), own))
    return block("Dataset statistics", ["dataset", "count"], lines, show_plain)
