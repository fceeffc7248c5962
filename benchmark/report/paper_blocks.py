"""Tables in the paper's form, and the paper's figures beside ours: functions of studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from benchmark.report.derived import fixed, mean_ratio, p_value, pairs
from benchmark.report.paper_study import LABELS, Mean, Study
from benchmark.report.section import Block, Cell, Mark
from benchmark.results.measures import seconds, share, with_interval
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS, Layout
from benchmark.results.record import METRICS

MISSING = "-"
Format = Callable[[Mean], str]


def format_quality(mean: Mean) -> str:
    """A metric to four digits, with its interval over seeds."""
    return with_interval(mean.estimate, share)


def format_seconds(mean: Mean) -> str:
    """Seconds; published ones as printed."""
    return f"{mean.value:,.1f}" if mean.source == "paper" else seconds(mean.estimate)


def format_memory(mean: Mean) -> str:
    """GB; published ones as printed."""
    return f"{mean.value:.1f}" if mean.source == "paper" else f"{mean.value:.2f}"


def format_plain(mean: Mean) -> str:
    """A count or a hyper-parameter."""
    return f"{mean.value:,.0f}" if mean.value.is_integer() else f"{mean.value:g}"


def format_p(p: float | None) -> str:
    """A p-value to three decimals."""
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def cell(mean: Mean | None, form: Format, mark: Mark = "") -> Cell:
    """A figure as a cell; `-` where there is none."""
    return Cell(MISSING) if mean is None else Cell(form(mean), mark, mean.record)


def marked(means: Sequence[Mean | None], form: Format, highest: bool = True) -> list[Cell]:
    """Cells of figures that compete, the best and the second marked; equal as printed is equal."""
    values = {form(mean).partition(" ")[0]: mean.value for mean in means if mean is not None}
    ranked = sorted(values, key=lambda text: values[text], reverse=highest)
    marks: dict[str, Mark] = dict(zip(ranked, ("best", "second"), strict=False)) if len(ranked) > 1 else {}
    return [cell(mean, form, marks.get(form(mean).partition(" ")[0], "") if mean else "") for mean in means]


def llm_label(study: Study, layout: Layout) -> str:
    """As the paper prints it, else as given."""
    return layout.llms.get(study.llm, study.llm) if study.source == "paper" else study.llm


def method_label(method: str, study: Study, layout: Layout) -> str:
    """Of the paper as it prints it; ours by their own names, because their settings are not the paper's."""
    return layout.methods.get(method, method) if study.source == "paper" else method


def capitalised(title: str) -> str:
    """With a capital letter at the beginning."""
    return title[0].upper() + title[1:]


def dataset_statistics(counts: Study) -> Block:
    """Table 1: a row a dataset."""
    rows = []
    for dataset, label in counts.datasets.items():
        means = [counts.means[dataset, "", name] for name in COUNTS]
        users, items, interactions = (mean.value for mean in means)
        numbers = [f"{mean.value:,.0f}" for mean in means]
        numbers += [f"{interactions / users:.1f}", f"{interactions / items:.1f}"]
        rows.append([Cell(label), *(Cell(number, "", means[0].record) for number in numbers)])
    heads = ["dataset", "users", "items", "interactions", "per user", "per item"]
    return Block("Dataset statistics", heads, rows)


def quality(
    study: Study, layout: Layout, first: Sequence[str], prefix: str = "", others: bool = True
) -> Block:
    """Tables 2 to 4 and 8: a row a dataset and metric, a column a method; the best of a row is marked.

    `prefix` goes before the metric: "" or MASKED. `first` are the columns, in order; with `others`, methods
    that the paper does not have follow.
    """
    methods = columns(study, layout, first, [prefix + metric for metric in METRICS]) if others else first
    rows = [
        [
            Cell(label),
            Cell(measure(metric).label),
            *marked([study.get(dataset, method, prefix + metric) for method in methods], format_quality),
        ]
        for dataset, label in study.datasets.items()
        for metric in METRICS
    ]
    title = "Test, full catalogue" + (", the user's history masked" if prefix else "")
    return Block(title, ["dataset", "metric", *(method_label(name, study, layout) for name in methods)], rows)


def columns(study: Study, layout: Layout, first: Sequence[str], measures: Sequence[str]) -> list[str]:
    """The table's methods, and those that the paper does not have."""
    return [name for name in study.methods(measures, first) if name in first or name not in layout.methods]


def improvements(
    studies: Sequence[Study], layout: Layout, baselines: Sequence[str], prefix: str = ""
) -> list[Block]:
    """Table 5: mean improvement of the proposed method over baselines; and the p-values behind its asterisks.

    There are none where no study has two datasets.
    """
    level = 1 - layout.confidence
    rows, tests, tested = [], [], False
    for study in studies:
        for metric in METRICS:
            head = [Cell(llm_label(study, layout)), Cell(measure(metric).label)]
            values, chances = [], []
            for baseline in baselines:
                both = pairs(study, layout.subject, baseline, prefix + metric)
                value, p = mean_ratio("improvement", both), p_value(both)
                star = "*" if p is not None and value is not None and p < level and value > 0 else ""
                values.append(Cell(MISSING if value is None else fixed(value) + star))
                chances.append(Cell(format_p(p)))
                tested |= p is not None
            rows.append([*head, *values])
            tests.append([*head, *chances])
    heads = ["language model", "metric", *(method_label(name, studies[0], layout) for name in baselines)]
    masked = ", the user's history masked" if prefix else ""
    blocks = [Block(f"Improvement of {layout.methods[layout.subject]}, %{masked}", heads, rows)]
    return [*blocks, Block(f"p of the improvement{masked}", heads, tests)] if tested else blocks


def costs(studies: Sequence[Study], layout: Layout, kind: str, measure: str, ratio: str, title: str) -> Block:
    """Tables 6 and 7: a row a language model and method, a column a dataset; the least of each is marked.

    The last column is the proposed method's mean `ratio` (`speedup`, `reduction`) against the row's.
    """
    datasets = {key: label for study in studies for key, label in study.datasets.items()}
    rows = []
    for study in studies:
        methods = study.methods([measure], layout.tables[kind].methods)
        if study.source == "ours":  # a method without any figure of ours would be an empty row
            methods = [name for name in methods if study.has([measure], [name])]
        by_dataset = [
            marked([study.get(dataset, name, measure) for name in methods], FORMATS[kind], highest=False)
            for dataset in datasets
        ]
        for name, cells in zip(methods, zip(*by_dataset, strict=True), strict=True):
            both = [] if name == layout.subject else pairs(study, layout.subject, name, measure)
            mean = mean_ratio(ratio, both)
            text = MISSING if mean is None else fixed(mean) + ("x" if ratio == "speedup" else " %")
            head = [Cell(llm_label(study, layout)), Cell(method_label(name, study, layout))]
            rows.append([*head, *cells, Cell(text)])
    return Block(capitalised(title), ["language model", "method", *datasets.values(), f"mean {ratio}"], rows)


def best(study: Study, layout: Layout) -> Block:
    """Tables S1 to S3: a row a dataset, a column a hyper-parameter that was searched."""
    rows = [
        [
            Cell(label),
            *(cell(study.get(dataset, c.method, c.hyperparameter), format_plain) for c in layout.columns),
        ]
        for dataset, label in study.datasets.items()
    ]
    heads = [f"{method_label(column.method, study, layout)} {column.symbol}" for column in layout.columns]
    return Block("Best by validation Recall@10", ["dataset", *heads], rows)


# --- The paper's figures beside ours: a row a figure --------------------------------------------------------


class FigurePair(NamedTuple):
    """A row: its labels, and the two figures."""

    labels: tuple[str, ...]
    paper: Mean | None
    ours: Mean | None


def comparison(
    title: str,
    heads: Sequence[str],
    rows: Iterable[FigurePair],
    form: Format,
    compete: bool = False,
    relative: bool = True,
) -> Block | None:
    """A table of comparisons; None where neither source has a figure.

    The difference is ours minus the paper's; `relative` adds it in per cent of the paper's. With `compete`,
    the best and the second of each source are marked among the rows with equal last label.
    """
    kept = [row for row in rows if row.paper or row.ours]
    if not kept:
        return None
    labels = [row.labels[-1] for row in kept]
    paper = _competing([row.paper for row in kept], labels if compete else [], form)
    ours = _competing([row.ours for row in kept], labels if compete else [], form)
    body = [
        [*map(Cell, row.labels), left, right, *_difference(row, form)[: 1 + relative]]
        for row, left, right in zip(kept, paper, ours, strict=True)
    ]
    more = ["relative %"] if relative else []
    return Block(title, [*heads, "paper", "ours", "difference", *more], body)


def _competing(means: Sequence[Mean | None], families: Sequence[str], form: Format) -> list[Cell]:
    """Cells, the best and the second of each family marked."""
    cells = [cell(mean, form) for mean in means]
    for family in dict.fromkeys(families):
        members = [number for number, name in enumerate(families) if name == family]
        marked_cells = marked([means[number] for number in members], form)
        for number, marked_cell in zip(members, marked_cells, strict=True):
            cells[number] = marked_cell
    return cells


def _difference(row: FigurePair, form: Format) -> list[Cell]:
    if row.paper is None or row.ours is None:
        return [Cell(MISSING), Cell(MISSING)]
    gap = row.ours.value - row.paper.value
    absolute = form(row.paper._replace(value=abs(gap)))
    sign = "" if not any(digit in absolute for digit in "123456789") else "-" if gap < 0 else "+"
    relative = fixed(100 * gap / row.paper.value, sign="+") if row.paper.value else MISSING
    return [Cell(sign + absolute), Cell(relative)]


def common(paper: Study, ours: Study) -> list[str]:
    """Datasets that both have, in the paper's order."""
    return [dataset for dataset in paper.datasets if dataset in ours.datasets]


def compare_quality(paper: Study, ours: Study, layout: Layout, kind: str, prefix: str) -> list[Block | None]:
    """Tables 2 to 4 (`kind` quality) or 8 (integration): a table a dataset, a row a method and metric.

    The paper does not say whether it masks the history: its figure stands beside ours under `prefix`, ""
    (raw) or MASKED.
    """
    methods: Sequence[str] = layout.tables[kind].methods
    if kind == "quality":
        methods = columns(ours, layout, methods, [prefix + metric for metric in METRICS])
    blocks = []
    for dataset in common(paper, ours):
        rows = [
            FigurePair(
                (method, measure(metric).label),
                paper.get(dataset, method, metric),
                ours.get(dataset, method, prefix + metric),
            )
            for metric, method in product(METRICS, methods)
        ]
        form = "with the user's history masked" if prefix else "not masked"
        title = f"{ours.datasets[dataset]}, ours {form}"
        blocks.append(comparison(title, ["method", "metric"], rows, format_quality, compete=True))
    return blocks


def compare_ratios(
    paper: Study, ours: Study, layout: Layout, kind: str, measures: Sequence[tuple[str, str]],
    baselines: Sequence[str], title: str,
) -> Block | None:  # fmt: skip
    """Improvements, speedups or reductions of the proposed method: of each source the mean over the datasets
    that both have. `measures`: (the paper's, ours)."""
    datasets = common(paper, ours)

    def mean(study: Study, baseline: str, measure: str) -> Mean | None:
        value = mean_ratio(kind, pairs(study, layout.subject, baseline, measure, datasets))
        return None if value is None else Mean(study.source, "", baseline, measure, value)

    rows = [
        FigurePair(
            (baseline, LABELS.get(printed, printed)),
            mean(paper, baseline, printed),
            mean(ours, baseline, own),
        )
        for (printed, own), baseline in product(measures, baselines)
    ]
    relative = kind == "speedup"
    return comparison(title, ["over", "measure"], rows, lambda mean: fixed(mean.value), relative=relative)


def compare_costs(
    paper: Study, ours: Study, layout: Layout, kind: str, measure: str, title: str
) -> Block | None:
    """Tables 6 and 7: a row a dataset and method."""
    methods = columns(ours, layout, layout.tables[kind].methods, [measure])
    rows = [
        FigurePair((ours.datasets[key[0]], key[1]), paper.get(*key, measure), ours.get(*key, measure))
        for key in product(common(paper, ours), methods)
    ]
    return comparison(capitalised(title), ["dataset", "method"], rows, FORMATS[kind])


def compare_best(paper: Study, ours: Study, layout: Layout) -> Block | None:
    """Tables S1 to S3: a row a dataset and hyper-parameter."""
    rows = []
    for dataset, column in product(common(paper, ours), layout.columns):
        key = (dataset, column.method, column.hyperparameter)
        labels = (ours.datasets[dataset], f"{column.method} {column.hyperparameter}")
        rows.append(FigurePair(labels, paper.get(*key), ours.get(*key)))
    return comparison("Best hyper-parameters", ["dataset", "hyper-parameter"], rows, format_plain)


def compare_statistics(paper: Study, ours: Study) -> Block | None:
    """Table 1: a row a dataset and count."""
    labels = {**paper.datasets, **ours.datasets}
    rows = [
        FigurePair((labels[dataset], name), paper.get(dataset, "", name), ours.get(dataset, "", name))
        for dataset, name in product(labels, COUNTS)
    ]
    return comparison("Dataset statistics", ["dataset", "count"], rows, format_plain)


FORMATS: Mapping[str, Format] = {"time": format_seconds, "memory": format_memory}
"""Kind of a table -> how its figures are printed."""
