"""Tables in the paper's form: each is one function of studies, whosever they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmark.report.derived import mean_ratio, p_value, pairs
from benchmark.report.measured import Study
from benchmark.report.stats import Estimate
from benchmark.report.styles import Block, Cell, Mark
from benchmark.report.tables import seconds, share, with_interval
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS, Figure, Layout
from benchmark.results.record import METRICS

MISSING = "-"
Show = Callable[[Figure], str]


def show_quality(figure: Figure) -> str:
    """A metric to four digits, with its interval over seeds."""
    return with_interval(_estimate(figure), share)


def show_seconds(figure: Figure) -> str:
    """Seconds; published ones as printed."""
    return f"{figure.value:,.1f}" if figure.source == "paper" else seconds(_estimate(figure))


def show_memory(figure: Figure) -> str:
    """GB; published ones as printed."""
    return f"{figure.value:.1f}" if figure.source == "paper" else f"{figure.value:.2f}"


def show_plain(figure: Figure) -> str:
    """A count or a hyper-parameter."""
    whole = figure.value.is_integer()
    return f"{figure.value:,.0f}" if whole else f"{figure.value:g}"


def _estimate(figure: Figure) -> Estimate:
    return Estimate(figure.value, figure.spread, figure.n_seeds, figure.value)


def fixed(value: float, digits: int = 1, sign: str = "") -> str:
    """A decimal number; nothing is minus nothing."""
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def show_p(p: float | None) -> str:
    """A p-value to three decimals."""
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def cell(figure: Figure | None, show: Show, mark: Mark = "") -> Cell:
    """A figure in its place; `-` where there is none."""
    return Cell(MISSING) if figure is None else Cell(show(figure), mark, figure.record)


def marked(figures: Sequence[Figure | None], show: Show, highest: bool = True) -> list[Cell]:
    """Cells of figures that compete, the best and the second marked; equal as printed is equal."""
    printed = {show(one).partition(" ")[0]: one.value for one in figures if one is not None}
    ranked = sorted(printed, key=lambda text: printed[text], reverse=highest)
    marks: dict[str, Mark] = dict(zip(ranked, ("best", "second"), strict=False)) if len(ranked) > 1 else {}
    return [cell(one, show, marks.get(show(one).partition(" ")[0], "") if one else "") for one in figures]


def name_of_llm(study: Study, layout: Layout) -> str:
    """As the paper prints it, else as given."""
    return layout.llms.get(study.llm, study.llm) if study.source == "paper" else study.llm


def name_of_method(method: str, study: Study, layout: Layout) -> str:
    """Of the paper as it prints it; ours by their own names, which its settings are not."""
    return layout.methods.get(method, method) if study.source == "paper" else method


def dataset_statistics(counts: Mapping[str, tuple[str, Mapping[str, float]]], record: str = "") -> Block:
    """Table 1: dataset -> (as shown, its counts)."""
    rows = []
    for shown, known in counts.values():
        users, items, interactions = (known[name] for name in COUNTS)
        numbers = [f"{value:,.0f}" for value in (users, items, interactions)]
        numbers += [f"{interactions / users:.1f}", f"{interactions / items:.1f}"]
        rows.append([Cell(shown), *(Cell(number, "", record) for number in numbers)])
    heads = ["dataset", "users", "items", "interactions", "per user", "per item"]
    return Block("Dataset statistics", heads, rows)


def quality(
    study: Study, layout: Layout, first: Sequence[str], prefix: str = "", others: bool = True
) -> Block:
    """Tables 2 to 4 and 8: a row a dataset and metric, a column a method; the best of a row is marked.

    `prefix` goes before the metric: "" or MASKED. `first` are the columns, in order; with `others`, methods
    that the paper does not have follow.
    """
    measures = [prefix + metric for metric in METRICS]
    methods = columns(study, layout, first, measures) if others else list(first)
    rows = []
    for dataset, shown in study.datasets.items():
        for metric in METRICS:
            figures = [study.get(dataset, method, prefix + metric) for method in methods]
            rows.append([Cell(shown), Cell(measure(metric).label), *marked(figures, show_quality)])
    title = "Test, full catalogue" + (", the user's history masked" if prefix else "")
    heads = ["dataset", "metric", *(name_of_method(method, study, layout) for method in methods)]
    return Block(title, heads, rows)


def columns(study: Study, layout: Layout, first: Sequence[str], measures: Sequence[str]) -> list[str]:
    """The table's methods, and those that the paper does not have."""
    found = study.methods(measures, first)
    return [name for name in found if name in first or name not in layout.methods]


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
            head = [Cell(name_of_llm(study, layout)), Cell(measure(metric).label)]
            values, chances = [], []
            for baseline in baselines:
                both = pairs(study, layout.subject, baseline, prefix + metric)
                value, p = mean_ratio("improvement", both), p_value(both)
                star = "*" if p is not None and value is not None and p < level and value > 0 else ""
                values.append(Cell(MISSING if value is None else fixed(value) + star))
                chances.append(Cell(show_p(p)))
                tested |= p is not None
            rows.append([*head, *values])
            tests.append([*head, *chances])
    heads = ["language model", "metric", *(name_of_method(name, studies[0], layout) for name in baselines)]
    masked = ", the user's history masked" if prefix else ""
    found = [Block(f"Improvement of {layout.methods[layout.subject]}, %{masked}", heads, rows)]
    return [*found, Block(f"p of the improvement{masked}", heads, tests)] if tested else found


def improvement_lines(
    studies: Sequence[Study], layout: Layout, baselines: Sequence[str], prefix: str = ""
) -> list[dict[str, Any]]:
    """The same in full precision, with the number of datasets."""
    found = []
    for study in studies:
        for metric in METRICS:
            for baseline in baselines:
                both = pairs(study, layout.subject, baseline, prefix + metric)
                if both:
                    named = {"source": study.source, "llm": study.llm, "protocol": study.protocol or None}
                    named |= {"method": layout.subject, "baseline": baseline, "measure": prefix + metric}
                    value, p = mean_ratio("improvement", both), p_value(both)
                    found.append({**named, "improvement_percent": value, "p": p, "datasets": len(both)})
    return found


def costs(studies: Sequence[Study], layout: Layout, kind: str, measure: str, ratio: str, title: str) -> Block:
    """Tables 6 and 7: a row a language model and method, a column a dataset; the least of each is marked.

    The last column is the proposed method's mean `ratio` (`speedup`, `reduction`) against the row's.
    """
    show = show_seconds if kind == "time" else show_memory
    datasets = {key: shown for study in studies for key, shown in study.datasets.items()}
    rows = []
    for study in studies:
        methods = study.methods([measure], layout.tables[kind].methods)
        if study.source == "ours":  # a method without any figure of ours would be a row of nothing
            methods = [name for name in methods if study.has([measure], [name])]
        places = [
            marked([study.get(dataset, name, measure) for name in methods], show, highest=False)
            for dataset in datasets
        ]
        for number, name in enumerate(methods):
            both = [] if name == layout.subject else pairs(study, layout.subject, name, measure)
            mean = mean_ratio(ratio, both)
            text = MISSING if mean is None else fixed(mean) + ("x" if ratio == "speedup" else " %")
            head = [Cell(name_of_llm(study, layout)), Cell(name_of_method(name, study, layout))]
            rows.append([*head, *(column[number] for column in places), Cell(text)])
    heads = ["language model", "method", *datasets.values(), f"mean {ratio}"]
    return Block(title[0].upper() + title[1:], heads, rows)


def best(study: Study, layout: Layout) -> Block:
    """Tables S1 to S3: a row a dataset, a column a hyper-parameter that was searched."""
    known = [(column.method, column.hyperparameter) for column in layout.columns]
    symbols = {(column.method, column.hyperparameter): column.symbol for column in layout.columns}
    rows = []
    for dataset, shown in study.datasets.items():
        found = [study.get(dataset, method, name) for method, name in known]
        rows.append([Cell(shown), *(cell(one, show_plain) for one in found)])
    heads = [f"{name_of_method(key[0], study, layout)} {symbols[key]}" for key in known]
    return Block("Best by validation Recall@10", ["dataset", *heads], rows)
