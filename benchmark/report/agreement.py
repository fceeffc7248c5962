"""Whether methods come in the same order under two protocols, and with the history masked and not."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from benchmark.report.differences import p_value
from benchmark.report.drawing import forms, look_of, style
from benchmark.report.section import Block, Cell, Plot, Section
from benchmark.results.comparable import RunGroup, RunRow, slug
from benchmark.results.generations import bare, note
from benchmark.results.measures import share
from benchmark.results.metrics import measure
from benchmark.results.results import Results
from benchmark.results.searches import label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = ("recall@10", "ndcg@10")
FEWEST = 3
"""Rows in common from which an order can agree or not."""
WRAP = 34
"""Characters of a line of a label in the plot."""
Scores = Mapping[str, float]
"""RunRow -> its figure as printed: what is printed alike is tied."""


@dataclass(frozen=True)
class Agreement:
    """Two orders of the same rows."""

    first: str
    second: str
    """What gave the orders."""
    metric: str
    a: Scores
    b: Scores
    """Over the same rows."""

    @property
    def tau(self) -> float | None:
        """Kendall's tau-b, corrected for ties; None where one side has all rows tied."""
        return self._test[0]

    @property
    def p(self) -> float | None:
        """Two-sided p of tau against no agreement; None where there is no tau."""
        return self._test[1]

    @property
    def _test(self) -> tuple[float | None, float | None]:
        from scipy.stats import kendalltau

        if len(set(self.a.values())) < 2 or len(set(self.b.values())) < 2:
            return None, None
        result = kendalltau(list(self.a.values()), [self.b[label] for label in self.a])
        return float(result.statistic), float(result.pvalue)

    @property
    def swapped(self) -> list[str]:
        """Pairs of rows that the two orders rank in opposite ways."""
        return [
            f"{x} and {y}"
            for x, y in combinations(self.a, 2)
            if (self.a[x] - self.a[y]) * (self.b[x] - self.b[y]) < 0
        ]


def scores(group: RunGroup, split: str, metric: str) -> Scores:
    """Mean test figures of the finished rows, rounded as a table prints them."""
    names = [_name(row) for row in group.rows]
    figures = {
        name if names.count(name) == 1 else bare(row.label): row.mean(metric, split)
        for name, row in zip(names, group.rows, strict=True)
    }
    return {label: round(figure.mean, 4) for label, figure in figures.items() if figure}


def _name(row: RunRow) -> str:
    """The label without what a search chose, which is its own under each protocol."""
    choice = label_of(row.tuning)
    label = bare(row.label)
    return label.replace(choice, choice.partition(":")[0]) if choice else label


def agreement(first: str, second: str, metric: str, a: Scores, b: Scores) -> Agreement | None:
    """The orders of the rows that both have; None for fewer than FEWEST."""
    both = [label for label in a if label in b]
    if len(both) < FEWEST:
        return None
    return Agreement(first, second, metric, {x: a[x] for x in both}, {x: b[x] for x in both})


def sections(results: Results) -> list[Section]:
    """A section for each dataset and language model with two orders or more."""
    families: dict[tuple[str, str, str | None], dict[str, RunGroup]] = {}
    for stem, group in results.groups.items():
        key = group.key
        families.setdefault((key.dataset, key.data_key, key.llm), {})[stem] = group
    made: list[Section] = []
    taken: set[str] = set()
    for (dataset, data_key, llm), family in families.items():
        names = _names(family)
        masked = [
            pair
            for stem, group in family.items()
            for metric in METRICS
            if (pair := _masking(names[stem], group, metric))
        ]
        between = [
            pair
            for x, y in combinations(family, 2)
            for metric in METRICS
            if (pair := _between(names[x], names[y], family[x], family[y], metric))
        ]
        if masked or between:
            stem = f"{slug(dataset)}-{slug(llm or 'none')}-agreement"
            stem = stem if stem not in taken else f"{stem}-{data_key}"
            taken.add(stem)
            runs = [run for group in family.values() for row in group.rows for run in row.ok]
            mixed = [f"{sentence}." for sentence in note(run.generation for run in runs)]
            made.append(_section(stem, f"{dataset}, {llm or 'no language model'}", between, masked, mixed))
    return made


def _names(family: Mapping[str, RunGroup]) -> dict[str, str]:
    """What a table is called beside the others of its family: the protocol, where that tells them apart."""
    protocols = [group.key.protocol for group in family.values()]
    return {
        stem: group.key.protocol if protocols.count(group.key.protocol) == 1 else stem
        for stem, group in family.items()
    }


def _masking(name: str, group: RunGroup, metric: str) -> Agreement | None:
    raw, masked = (scores(group, split, metric) for split in ("test", "test_masked"))
    return agreement(f"{name}, raw", f"{name}, history masked", metric, raw, masked)


def _between(first: str, second: str, a: RunGroup, b: RunGroup, metric: str) -> Agreement | None:
    return agreement(first, second, metric, scores(a, "test", metric), scores(b, "test", metric))


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
        if pair.metric == METRICS[0]
    ]
    heads = ["orders", "metric", "rows", "tau-b", "p", "reversed pairs"]
    titles = {"Between protocols": between, "History masked or not": masked}
    return Section(
        stem,
        f"Rank agreement: {where}",
        f"{where}: Kendall's tau-b between two orders of the same rows by their mean test figures over the "
        "full catalogue. 1: the same order, 0: unrelated, -1: reversed.",
        [Block(title, heads, [_row(pair) for pair in some]) for title, some in titles.items() if some],
        [
            "Rows are matched by their label, without the values that a search chose; figures that print "
            "alike are tied. p: two-sided test against unrelated orders, exact where there are no ties; with "
            "few rows it has little power.",
            "A reversed pair may differ by chance alone: see the tests of differences between methods.",
            *mixed,
        ],
        plots,
        [_line(where, pair) for pair in pairs],
    )


def _row(pair: Agreement) -> list[Cell]:
    tau, p, swapped = pair.tau, pair.p, pair.swapped
    possible = len(pair.a) * (len(pair.a) - 1) // 2
    reversed_pairs = "; ".join(swapped) if len(swapped) <= 3 else f"{len(swapped)} of {possible}"
    texts = [
        f"{pair.first} and {pair.second}",
        measure(pair.metric).label,
        str(len(pair.a)),
        "n/a" if tau is None else f"{tau:.2f}",
        p_value(p),
        reversed_pairs or "none",
    ]
    return [Cell(text) for text in texts]


def _line(where: str, pair: Agreement) -> dict[str, Any]:
    return {
        "of": where, "first": pair.first, "second": pair.second, "metric": pair.metric, "rows": len(pair.a),
        "tau_b": pair.tau, "p": pair.p, "reversed": "; ".join(pair.swapped),
        "first_figures": "; ".join(f"{label} {value:.4f}" for label, value in pair.a.items()),
        "second_figures": "; ".join(f"{label} {value:.4f}" for label, value in pair.b.items()),
    }  # fmt: skip


def draw(pair: Agreement, where: str) -> dict[str, bytes]:
    """Ranks on the left and on the right, a line a row: `png` and `svg`."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(7.5, 1.4 + 0.36 * len(pair.a)), layout="constrained")
        axes = figure.add_subplot()
        figure.suptitle(
            f"{where}: ranks by {measure(pair.metric).label}", x=0.01, ha="left", fontsize="large"
        )
        sides = [_places(pair.a), _places(pair.b)]
        for place, label in enumerate(pair.a):
            colour, dash, marker = look_of(place)
            look: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": marker}
            axes.plot([0, 1], [side[label] for side in sides], linewidth=1.6, markersize=6, **look)
        axes.set_xlim(-0.05, 1.05)
        axes.set_xticks([0, 1], [pair.first, pair.second])
        axes.xaxis.tick_top()
        for side, values, at in zip(sides, (pair.a, pair.b), (axes, axes.twinx()), strict=True):
            at.set_ylim(len(pair.a) + 0.6, 0.4)
            _write(at, side, values, first=at is axes)
            at.grid(visible=False)
            at.tick_params(length=0)
            for spine in at.spines.values():
                spine.set_visible(False)
        return forms(figure)


def _places(values: Scores) -> dict[str, float]:
    """RunRow -> its place from 1 for the best; tied rows share the mean of theirs."""
    listed = sorted(values.values(), reverse=True)
    return {x: listed.index(v) + 1 + (listed.count(v) - 1) / 2 for x, v in values.items()}


def _write(axes: Axes, side: Mapping[str, float], values: Scores, first: bool) -> None:
    """Labels at one end of the lines, cut where they take up more than two lines; tied rows share one."""
    places = sorted(set(side.values()))
    texts = []
    for place in places:
        tied = [label for label in side if side[label] == place]
        value = share(values[tied[0]])
        text = textwrap.shorten(", ".join(tied), 2 * WRAP - 12, placeholder="...")
        text = f"{text}  {value}" if first else f"{value}  {text}"
        texts.append(textwrap.fill(text, WRAP))
    axes.set_yticks(places, texts)
