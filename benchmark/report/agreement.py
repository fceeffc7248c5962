"""Whether methods come in the same order under two protocols, and with the history masked and not."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

from benchmark.report.differences import p_value
from benchmark.report.drawing import forms, look_of, new_figure, wrapped_title
from benchmark.report.section import Block, Cell, Plot, Section
from benchmark.results.figures import Results
from benchmark.results.groups import HEADLINE, RunGroup, RunRow, bare, note, slug
from benchmark.results.measures import share
from benchmark.results.metrics import measure
from benchmark.results.tuning import label_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FEWEST = 3
"""Rows in common from which an order can agree or not."""
WRAP = 34
"""Characters of a line of a label in the plot."""


@dataclass(frozen=True)
class Agreement:
    """Two orders of the same rows."""

    first: str
    second: str
    """What gave the orders."""
    metric: str
    figures: pd.DataFrame
    """A line a row, the figures of `first` and of `second` as printed: what is printed alike is tied."""

    @cached_property
    def tau(self) -> tuple[float, float] | None:
        """Kendall's tau-b, corrected for ties, and its two-sided p against no agreement; None where all rows
        of an order are tied."""
        from scipy.stats import kendalltau

        if self.figures.nunique().min() < 2:
            return None
        result = kendalltau(*self.figures.to_numpy().T)
        return float(result.statistic), float(result.pvalue)

    @property
    def reversed_pairs(self) -> list[str]:
        """Pairs of rows that the two orders rank in opposite ways."""
        rows = self.figures.itertuples()
        return [f"{x} and {y}" for (x, *a), (y, *b) in combinations(rows, 2) if _opposite(a, b)]


def _opposite(a: Sequence[float], b: Sequence[float]) -> bool:
    return (a[0] - b[0]) * (a[1] - b[1]) < 0


def scores(group: RunGroup, split: str, metric: str) -> pd.Series:
    """Row -> mean test figure, of the finished rows, rounded as a table prints it."""
    import pandas as pd

    names = [_name(row) for row in group.rows]
    means = {
        name if names.count(name) == 1 else bare(row.label): round(mean.mean, 4)
        for name, row in zip(names, group.rows, strict=True)
        if (mean := row.mean(metric, split))
    }
    return pd.Series(means, dtype=float)


def _name(row: RunRow) -> str:
    """The label without what a search chose, which is its own under each protocol."""
    choice = label_of(row.tuning, row.runs[0].dataset) if row.runs else ""
    label = bare(row.label)
    return label.replace(choice, choice.partition(":")[0]) if choice else label


def agreement(first: str, second: str, metric: str, a: pd.Series, b: pd.Series) -> list[Agreement]:
    """The orders of the rows that both have; nothing for fewer than FEWEST."""
    import pandas as pd

    both = pd.concat([a, b], axis=1, join="inner", keys=["first", "second"])
    return [Agreement(first, second, metric, both)] if len(both) >= FEWEST else []


def sections(results: Results) -> list[Section]:
    """A section for each dataset and language model with two orders or more."""
    families: dict[tuple[str, str, str | None], dict[str, RunGroup]] = {}
    for stem, group in results.groups.items():
        key = group.key
        families.setdefault((key.dataset, key.data_key, key.llm), {})[stem] = group
    made: list[Section] = []
    taken: set[str] = set()
    for (dataset, data_key, llm), family in families.items():
        tables = _names(family)
        masked = [
            pair
            for (name, group), metric in product(tables.items(), HEADLINE)
            for pair in agreement(
                f"{name}, raw", f"{name}, history masked", metric,
                scores(group, "test", metric), scores(group, "test_masked", metric),
            )
        ]  # fmt: skip
        between = [
            pair
            for (x, y), metric in product(combinations(tables, 2), HEADLINE)
            for pair in agreement(
                x, y, metric,
                scores(tables[x], "test_masked", metric), scores(tables[y], "test_masked", metric),
            )
        ]  # fmt: skip
        if masked or between:
            stem = f"{slug(dataset)}-{slug(llm or 'none')}-agreement"
            stem = stem if stem not in taken else f"{stem}-{data_key}"
            taken.add(stem)
            runs = [run for group in family.values() for row in group.rows for run in row.ok]
            mixed = [f"{sentence}." for sentence in note(run.generation for run in runs)]
            made.append(_section(stem, f"{dataset}, {llm or 'no language model'}", between, masked, mixed))
    return made


def _names(family: Mapping[str, RunGroup]) -> dict[str, RunGroup]:
    """The tables of a family by protocol, where that tells them apart, else by file name."""
    uses = Counter(group.key.protocol for group in family.values())
    return {
        group.key.protocol if uses[group.key.protocol] == 1 else stem: group for stem, group in family.items()
    }


def _section(
    stem: str,
    where: str,
    between: Sequence[Agreement],
    masked: Sequence[Agreement],
    mixed: Sequence[str],
) -> Section:
    pairs = [*between, *masked]
    plots = [
        Plot(
            f"{slug(pair.first)}-{slug(pair.second)}",
            f"Order by {measure(pair.metric).label}, {pair.first} and {pair.second}: {where}",
            draw(pair, where),
        )
        for pair in between
        if pair.metric == HEADLINE[0]
    ]
    heads = ["orders", "metric", "rows", "tau-b", "p", "reversed pairs"]
    titles = {"Between protocols, history masked": between, "History masked or not": masked}
    return Section(
        stem,
        f"Rank agreement: {where}",
        f"{where}: Kendall's tau-b between two orders of the same rows by their mean test figures over the "
        "full catalogue. 1: the same order, 0: unrelated, -1: reversed.",
        [Block(title, heads, [_row(pair) for pair in orders]) for title, orders in titles.items() if orders],
        [
            "Rows are matched by their label, without the values that a search chose; the tables of runs "
            "have the number of seeds of each. Figures that print alike are tied. p: two-sided test against "
            "unrelated orders, exact where there are no ties; with few rows it has little power.",
            "A reversed pair may differ by chance alone: see the tests of differences between methods.",
            *mixed,
        ],
        plots,
        [_line(where, pair) for pair in pairs],
    )


def _row(pair: Agreement) -> list[Cell]:
    rows, reversed_pairs = len(pair.figures), pair.reversed_pairs
    listed = "; ".join(reversed_pairs) or "none"
    if len(reversed_pairs) > 3:
        listed = f"{len(reversed_pairs)} of {rows * (rows - 1) // 2}"
    tau, p = pair.tau or (None, None)
    texts = [
        f"{pair.first} and {pair.second}",
        measure(pair.metric).label,
        str(rows),
        "n/a" if tau is None else f"{tau:.2f}",
        p_value(p),
        listed,
    ]
    return [Cell(text) for text in texts]


def _line(where: str, pair: Agreement) -> dict[str, Any]:
    tau, p = pair.tau or (None, None)
    first, second = (
        "; ".join(f"{label} {value:.4f}" for label, value in figures.items())
        for _, figures in pair.figures.items()
    )
    return {
        "of": where, "first": pair.first, "second": pair.second, "metric": pair.metric,
        "rows": len(pair.figures), "tau_b": tau, "p": p, "reversed": "; ".join(pair.reversed_pairs),
        "first_figures": first, "second_figures": second,
    }  # fmt: skip


def draw(pair: Agreement, where: str) -> dict[str, bytes]:
    """Ranks on the left and on the right, a line a row: `png` and `svg`."""
    ranks, rows = pair.figures.rank(ascending=False), len(pair.figures)
    with new_figure(1.4 + 0.36 * rows) as figure:
        axes = figure.add_subplot()
        title = f"{where}: ranks by {measure(pair.metric).label}"
        figure.suptitle(wrapped_title(title), x=0.01, ha="left", fontsize="large")
        for number, line in enumerate(ranks.to_numpy()):
            axes.plot([0, 1], line, linewidth=1.6, markersize=6, **look_of(number))
        axes.set_xlim(-0.05, 1.05)
        axes.set_xticks([0, 1], [pair.first, pair.second])
        axes.xaxis.tick_top()
        for order, end in (("first", axes), ("second", axes.twinx())):
            end.set_ylim(rows + 0.6, 0.4)
            _write_labels(end, ranks[order], pair.figures[order], left=end is axes)
            end.grid(visible=False)
            end.tick_params(length=0)
            for spine in end.spines.values():
                spine.set_visible(False)
        return forms(figure)


def _write_labels(axes: Axes, ranks: pd.Series, figures: pd.Series, left: bool) -> None:
    """Labels at one end of the lines, cut where they take up more than two lines; tied rows share one."""
    texts = {}
    for rank, tied in figures.groupby(ranks, sort=True):
        value = share(tied.iloc[0])
        text = textwrap.shorten(", ".join(tied.index), 2 * WRAP - 12, placeholder="...")
        texts[rank] = textwrap.fill(f"{text}  {value}" if left else f"{value}  {text}", WRAP)
    axes.set_yticks(list(texts), list(texts.values()))
