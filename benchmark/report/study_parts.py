"""What the sections of the paper's tables share: notes, and how tables become a section."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from benchmark.report.measured import MASKED, MEMORIES, TIMES, Study
from benchmark.report.names import slug
from benchmark.report.section import Section
from benchmark.report.styles import Block
from benchmark.results.published import COUNTS, Figure, Layout, Published
from benchmark.results.record import METRICS

STATISTICS = "paper:table1"
UNMASKED = (
    "The paper does not say whether items of the user's history are left out of the ranking. Ours are given "
    "raw first, then with the history masked; the paper's ratio of N@10 to R@10 on Sci (0.63 to 0.65) is "
    "nearer to that of our masked figures."
)
SPREAD = "±: half-width of the 95 % t interval over seeds; a figure without it is of one seed."
ACROSS = "Best and second: among the methods of a row."
IMPROVED = (
    "Improvement: mean over datasets of 100 (s / b - 1), s the proposed method's figure and b the "
    "baseline's. p: paired t-test of s - b over datasets, two-sided; *: p < {:.2f}. Whether the paper's test "
    "has one side or two it does not say; a one-sided p is half as large."
)
OURS = (
    "Means are over the datasets on which both methods have a figure. The t-test takes datasets as "
    "independent, which a dataset and a part of it are not."
)
SAID = {
    "time": "Mean speedup: mean over datasets of b / s, s the proposed method's seconds and b the row's.",
    "memory": "Mean reduction: mean over datasets of 100 (1 - s / b), s the proposed method's memory and b "
    "the row's. Ours: on a GPU what torch allocated, on a CPU the resident memory of the process; the "
    "largest of the seeds, in 10^9 bytes. What the paper's GB counts it does not say.",
}


def measures_of(kind: str, layout: Layout) -> Collection[str]:
    """The measures that a kind of table shows."""
    if kind in ("quality", "integration"):
        return [*METRICS, *(MASKED + metric for metric in METRICS)]
    known = {"time": TIMES, "memory": MEMORIES, "best": {one.hyperparameter for one in layout.columns}}
    return known[kind]


def plain(value: float) -> float:
    """A whole number as one, so that counts and sizes are read as such."""
    return int(value) if value.is_integer() else value


def line(figure: Figure, protocol: str) -> dict[str, Any]:
    """A figure in full precision, for the CSV."""
    return {
        "source": figure.source,
        "llm": figure.llm,
        "protocol": protocol or None,
        "dataset": figure.dataset,
        "method": figure.method,
        "measure": figure.measure,
        "value": plain(figure.value),
        "half_width": figure.spread,
        "seeds": figure.n_seeds if figure.source == "ours" else None,
        "record": figure.record,
    }


def lines_of(
    studies: Iterable[Study], measures: Collection[str], methods: Collection[str]
) -> list[dict[str, Any]]:
    """The figures of studies, narrowed; no methods: of all."""
    return [
        line(one, study.protocol)
        for study in studies
        for one in study.figures.values()
        if one.measure in measures and (not methods or one.method in methods)
    ]


def behind(blocks: Sequence[Block], studies: Iterable[Study]) -> dict[str, Any]:
    """What stands behind the cells of these tables."""
    used = {cell.record for block in blocks for row in block.rows for cell in row}
    return {name: value for study in studies for name, value in study.behind.items() if name in used}


def make(
    kind: str, studies: Sequence[Study], layout: Layout, blocks: Sequence[Block], notes: Sequence[str],
    lines: Sequence[Mapping[str, Any]] = (),
) -> Section:  # fmt: skip
    """A section of the paper's figures, or of ours under one protocol."""
    table, first = layout.tables[kind], studies[0]
    number = table.numbers.get("") or table.numbers.get(first.llm) or table.numbers[layout.stand_in]
    named = table.title[0].lower() + table.title[1:]
    single = "" not in table.numbers
    if first.source == "paper":
        about = f" ({layout.llms[first.llm]})" if single else ""
        stem, title = f"paper-table{number}", f"Table {number}: {named}{about}"
        caption = f"From what {layout.source} prints{about}."
    else:
        about = f"{first.llm}, protocol {first.protocol}" if single else f"protocol {first.protocol}"
        stem = "-".join(["ours", kind, *([slug(first.llm)] if single else []), slug(first.protocol)])
        title = f"Ours, as Table {number}: {named} ({about})"
        models = ", ".join(dict.fromkeys(study.llm for study in studies))
        caption = f"From our records: language model {models}, protocol {first.protocol}."
        if others := [study.llm for study in studies if study.llm not in layout.llms]:
            caption += f" {', '.join(others)}: not a language model of the paper."
    own = [note for study in studies for note in _own_notes(study, len(studies) > 1)]
    return Section(stem, title, caption, blocks, [*notes, *own], (), lines, behind(blocks, studies))


def _own_notes(study: Study, several: bool) -> list[str]:
    return [f"{study.llm}: {note}" if several else note for note in study.notes]


def printed_counts(paper: Published) -> dict[str, dict[str, Figure]]:
    """Table 1: dataset -> users, items, interactions -> figure."""
    found: dict[str, dict[str, Figure]] = {}
    for figure in paper.figures:
        if figure.measure in COUNTS:
            found.setdefault(figure.dataset, {})[figure.measure] = figure
    return found
