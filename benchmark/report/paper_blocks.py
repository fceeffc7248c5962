"""Tables in the paper's form, and the paper's figures beside ours: functions of studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from benchmark.report.derived import fixed, mean_ratio, p_value
from benchmark.report.paper_study import LABELS, Key, Study, StudyMean
from benchmark.report.section import Block, Cell
from benchmark.results.measures import seconds, share
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS, published
from benchmark.results.schema import METRICS

MISSING = "-"
Format = Callable[[StudyMean], str]
FORMATS: Mapping[str, Format] = {
    "quality": lambda mean: share(mean.value),
    "time": lambda mean: f"{mean.value:,.1f}" if mean.source == "paper" else seconds(mean.estimate),
    "memory": lambda mean: f"{mean.value:.1f}" if mean.source == "paper" else f"{mean.value:.2f}",
    "plain": lambda mean: f"{mean.value:,.0f}" if mean.value.is_integer() else f"{mean.value:g}",
}
"""Kind of a table, or `plain` for counts and hyper-parameters -> how its figures are printed; published ones
as the paper prints them."""
MASKED_TITLE = ", the user's history masked"


def cell(mean: StudyMean | None, form: Format) -> Cell:
    """A figure as a cell; `-` where there is none."""
    return Cell(MISSING) if mean is None else Cell(form(mean), record=mean.record)


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


def quality(study: Study, first: Sequence[str], prefix: str = "", others: bool = True) -> Block:
    """Tables 2 to 4 and 8: a row a dataset and metric, a column a method.

    `prefix` goes before the metric: "" or MASKED. `first` are the columns, in order; with `others`, methods
    that the paper does not have follow.
    """
    methods = study.columns([prefix + metric for metric in METRICS], first) if others else first
    rows = []
    for (dataset, label), metric in product(study.datasets.items(), METRICS):
        means = [study.means.get((dataset, method, prefix + metric)) for method in methods]
        rows.append(
            [Cell(label), Cell(measure(metric).label), *(cell(mean, FORMATS["quality"]) for mean in means)]
        )
    title = "Test, full catalogue" + (MASKED_TITLE if prefix else "")
    return Block(title, ["dataset", "metric", *map(study.label, methods)], rows)


def improvements(
    studies: Sequence[Study], baselines: Sequence[str], prefix: str = ""
) -> tuple[list[Block], list[dict[str, Any]]]:
    """Table 5: mean improvement of the proposed method over baselines, the p-values behind its asterisks, and
    both in full precision.

    There are no p-values where no study has two datasets.
    """
    layout = published().layout
    rows: list[list[Cell]] = []
    tests: list[list[Cell]] = []
    lines: list[dict[str, Any]] = []
    for study, metric in product(studies, METRICS):
        for cells in (rows, tests):
            cells.append([Cell(study.llm_label), Cell(measure(metric).label)])
        for baseline in baselines:
            both = study.pairs(baseline, prefix + metric)
            value, p = mean_ratio("improvement", both), p_value(both)
            star = "*" if p is not None and p < 1 - layout.confidence and (value or 0) > 0 else ""
            rows[-1].append(Cell(MISSING if value is None else fixed(value) + star))
            tests[-1].append(Cell(MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"))
            line = {
                "source": study.source, "llm": study.llm, "protocol": study.protocol or None,
                "method": layout.subject, "baseline": baseline, "measure": prefix + metric,
                "improvement_percent": value, "p": p, "datasets": len(both[0]),
            }  # fmt: skip
            lines += [line] if value is not None else []
    heads = ["language model", "metric", *map(studies[0].label, baselines)]
    masked = MASKED_TITLE if prefix else ""
    blocks = [Block(f"Improvement of {layout.methods[layout.subject]}, %{masked}", heads, rows)]
    if any(line["p"] is not None for line in lines):
        blocks.append(Block(f"p of the improvement{masked}", heads, tests))
    return blocks, lines


def costs(studies: Sequence[Study], kind: str, measure: str, ratio: str, title: str) -> Block:
    """Tables 6 and 7: a row a language model and method, a column a dataset.

    The last column is the proposed method's mean `ratio` (`speedup`, `reduction`) against the row's.
    """
    layout = published().layout
    datasets = {key: label for study in studies for key, label in study.datasets.items()}
    rows = []
    for study in studies:
        methods = study.methods([measure], layout.tables[kind].methods)
        if study.source == "ours":  # a method without any figure of ours would be an empty row
            methods = [name for name in methods if study.has([measure], [name])]
        columns = [[study.means.get((dataset, name, measure)) for name in methods] for dataset in datasets]
        by_dataset = [[cell(mean, FORMATS[kind]) for mean in means] for means in columns]
        for name, cells in zip(methods, zip(*by_dataset, strict=True), strict=True):
            mean = None if name == layout.subject else mean_ratio(ratio, study.pairs(name, measure))
            text = MISSING if mean is None else fixed(mean) + ("x" if ratio == "speedup" else " %")
            rows.append([Cell(study.llm_label), Cell(study.label(name)), *cells, Cell(text)])
    return Block(capitalised(title), ["language model", "method", *datasets.values(), f"mean {ratio}"], rows)


def best(study: Study) -> Block:
    """Tables S1 to S3: a row a dataset, a column a hyper-parameter that was searched."""
    columns = published().layout.columns
    rows = []
    for dataset, label in study.datasets.items():
        means = [study.means.get((dataset, column.method, column.hyperparameter)) for column in columns]
        rows.append([Cell(label), *(cell(mean, FORMATS["plain"]) for mean in means)])
    heads = [f"{study.label(column.method)} {column.symbol}" for column in columns]
    return Block("Best by validation Recall@10", ["dataset", *heads], rows)


# --- The paper's figures beside ours: a row a figure --------------------------------------------------------


class FigurePair(NamedTuple):
    """A row: its labels, and the two figures."""

    labels: tuple[str, ...]
    paper: StudyMean | None
    ours: StudyMean | None


def comparison(
    title: str,
    heads: Sequence[str],
    rows: Iterable[FigurePair],
    form: Format,
    relative: bool = True,
) -> list[Block]:
    """A table of comparisons; none where neither source has a figure.

    The difference is ours minus the paper's; `relative` adds it in per cent of the paper's.
    """
    kept = [row for row in rows if row.paper or row.ours]
    body = [
        [
            *map(Cell, row.labels),
            *(cell(mean, form) for mean in (row.paper, row.ours)),
            *_difference(row, form)[: 1 + relative],
        ]
        for row in kept
    ]
    more = ["relative %"] if relative else []
    return [Block(title, [*heads, "paper", "ours", "difference", *more], body)] if kept else []


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


def compare_quality(paper: Study, ours: Study, kind: str, prefix: str) -> list[Block]:
    """Tables 2 to 4 (`kind` quality) or 8 (integration): a table a dataset, a row a method and metric.

    The paper does not say whether it masks the history: its figure stands beside ours under `prefix`, ""
    (raw) or MASKED.
    """
    methods: Sequence[str] = published().layout.tables[kind].methods
    if kind == "quality":
        methods = ours.columns([prefix + metric for metric in METRICS], methods)
    form = "with the user's history masked" if prefix else "not masked"
    blocks = []
    for dataset in common(paper, ours):
        rows = [
            FigurePair(
                (method, measure(metric).label),
                paper.means.get((dataset, method, metric)),
                ours.means.get((dataset, method, prefix + metric)),
            )
            for metric, method in product(METRICS, methods)
        ]
        title = f"{ours.datasets[dataset]}, ours {form}"
        blocks += comparison(title, ["method", "metric"], rows, FORMATS["quality"])
    return blocks


def compare_ratios(
    paper: Study,
    ours: Study,
    kind: str,
    measures: Iterable[tuple[str, str]],
    baselines: Sequence[str],
    title: str,
) -> list[Block]:
    """Improvements, speedups or reductions of the proposed method: of each source the mean over the datasets
    that both have. `measures`: (the paper's, ours)."""

    def mean(study: Study, baseline: str, measure: str) -> StudyMean | None:
        value = mean_ratio(kind, study.pairs(baseline, measure, common(paper, ours)))
        return None if value is None else StudyMean(study.source, value)

    rows = [
        FigurePair((baseline, LABELS[printed]), mean(paper, baseline, printed), mean(ours, baseline, own))
        for (printed, own), baseline in product(measures, baselines)
    ]
    relative = kind == "speedup"
    return comparison(title, ["over", "measure"], rows, lambda mean: fixed(mean.value), relative=relative)


def compare(
    paper: Study, ours: Study, title: str, heads: Sequence[str], keys: Mapping[Key, str], form: Format
) -> list[Block]:
    """Figures of both under the same keys, each with its label after that of the dataset."""
    datasets = {**paper.datasets, **ours.datasets}
    rows = [
        FigurePair((datasets[key[0]], label), paper.means.get(key), ours.means.get(key))
        for key, label in keys.items()
    ]
    return comparison(title, ["dataset", *heads], rows, form)


def compare_costs(paper: Study, ours: Study, kind: str, measure: str, title: str) -> list[Block]:
    """Tables 6 and 7: a row a dataset and method."""
    methods = ours.columns([measure], published().layout.tables[kind].methods)
    keys = {(dataset, name, measure): name for dataset, name in product(common(paper, ours), methods)}
    return compare(paper, ours, capitalised(title), ["method"], keys, FORMATS[kind])


def compare_best(paper: Study, ours: Study) -> list[Block]:
    """Tables S1 to S3: a row a dataset and hyper-parameter."""
    names = [(column.method, column.hyperparameter) for column in published().layout.columns]
    keys = {(dataset, *name): " ".join(name) for dataset, name in product(common(paper, ours), names)}
    return compare(paper, ours, "Best hyper-parameters", ["hyper-parameter"], keys, FORMATS["plain"])


def compare_statistics(paper: Study, ours: Study) -> list[Block]:
    """Table 1: a row a dataset and count."""
    datasets = {**paper.datasets, **ours.datasets}
    keys = {(dataset, "", name): name for dataset, name in product(datasets, COUNTS)}
    return compare(paper, ours, "Dataset statistics", ["count"], keys, FORMATS["plain"])
