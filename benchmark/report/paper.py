"""The paper's tables as sections: from what the paper prints, from our records, or both side by side.

A table of ours never mixes protocols: each protocol has its own, `paper` first. What is computed from the
figures is defined in `benchmark.report.derived`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from benchmark.report import derived
from benchmark.report import paper_blocks as tables
from benchmark.report.paper_study import (
    MASKED,
    MEMORIES,
    TIMES,
    Study,
    counts_of,
    of_paper,
    of_records,
)
from benchmark.report.section import Block, Section
from benchmark.results.comparable import slug
from benchmark.results.published import COUNTS, Layout, Published, TableLayout, published
from benchmark.results.record import METRICS
from benchmark.results.results import Results

Lines = list[dict[str, Any]]
UNMASKED = (
    "The paper does not say whether it leaves the items of the user's history out of the ranking. Our "
    "figures are shown without this mask first, then with it. The paper's ratio of N@10 to R@10 on Sci (0.63 "
    "to 0.65) is nearer to that of our masked figures."
)
SPREAD = "±: half-width of the 95 % t interval over seeds. A figure without ± comes from one seed."
ACROSS = "Best and second are marked among the methods of a row."
IMPROVED = (
    "Improvement: the mean over datasets of 100 (s / b - 1), where s is the figure of the proposed method "
    "and b that of the baseline. p: two-sided paired t-test of s - b over datasets; *: p < {:.2f}. The paper "
    "does not say whether its test is one-sided; a one-sided p is half as large."
)
OURS = (
    "Means are over the datasets on which both methods have a figure. The t-test assumes that datasets are "
    "independent; a dataset and a part of it are not."
)
COST_NOTES = {
    "time": "Mean speedup: the mean over datasets of b / s, where s is the time of the proposed method and b "
    "that of the row's method.",
    "memory": "Mean reduction: the mean over datasets of 100 (1 - s / b), where s is the memory of the "
    "proposed method and b that of the row's method. Our memory is what torch allocated on a GPU, or the "
    "resident memory of the process on a CPU: the largest of the seeds, in 10^9 bytes. The paper does not "
    "define its GB.",
}
COSTS: tuple[tuple[str, Mapping[str, str], str], ...] = (
    ("time", TIMES, "speedup"),
    ("memory", MEMORIES, "reduction"),
)
"""Kind of a table, its measures, and what is averaged over datasets."""


def sections(results: Results) -> list[Section]:
    """The paper's tables from a source: `paper` needs no runs, `ours` needs only them.

    Raises `UserError` for a published file that is damaged.
    """
    paper, figures = published(), results.figures
    layout = paper.layout
    theirs = counts_of("paper", figures, layout), of_paper(figures, layout)
    if results.source == "paper":
        return _paper(paper, *theirs)
    ours = counts_of("ours", figures, layout), of_records(results.groups.values(), layout)
    return _ours(layout, *ours) if results.source == "ours" else _both(paper, *theirs, *ours)


def _paper(paper: Published, counts: Study, studies: Sequence[Study]) -> list[Section]:
    layout = paper.layout
    return [
        *_statistics(counts, layout),
        *(section for study in studies for section in _quality("quality", study, layout)),
        _improvement(studies, layout),
        *_costs(studies, layout),
        *(section for study in studies for section in _quality("integration", study, layout)),
        *(section for study in studies for section in _best(study, layout)),
        derived.section(paper, studies),
    ]


def _ours(layout: Layout, counts: Study, studies: Sequence[Study]) -> list[Section]:
    result = _statistics(counts, layout)
    for protocol in dict.fromkeys(study.protocol for study in studies):
        same = [study for study in studies if study.protocol == protocol]
        for study in same:
            result += _quality("quality", study, layout)
        if compared := [study for study in same if study.has(METRICS, [layout.subject])]:
            result.append(_improvement(compared, layout))
        result += _costs(same, layout)
        for study in same:
            result += [*_quality("integration", study, layout), *_best(study, layout)]
    return result


def _both(
    paper: Published, counts: Study, studies: Sequence[Study], own_counts: Study, ours: Sequence[Study]
) -> list[Section]:
    """Side by side what both have; of the paper alone what our runs have no counterpart of."""
    layout, theirs = paper.layout, {study.llm: study for study in studies}
    result = [_compared_statistics(counts, own_counts, layout)]
    paired: set[str] = set()
    for own in ours:
        pair = _compared(theirs.get(own.llm, theirs[layout.stand_in]), own, layout)
        single = {table.numbers.get(own.llm) for table in layout.tables.values()}
        titles = (section.title.partition(" and our runs")[0] for section in pair)
        paired |= {title for title in titles if title.removeprefix("Table ") in single}
        result += pair
    alone = [
        section for section in _paper(paper, counts, studies) if section.title.partition(":")[0] not in paired
    ]
    return [*result, *(section for section in alone if section.stem != "paper-table1")]


# --- Tables of one source -----------------------------------------------------------------------------------


def _statistics(counts: Study, layout: Layout) -> list[Section]:
    if not counts.datasets:
        return []
    blocks = [tables.dataset_statistics(counts)]
    if counts.source == "paper":
        title = "Table 1: dataset statistics"
        caption = f"Published in {layout.source}: users, items and interactions after preparation."
        lines = counts.lines({key[2] for key in counts.means})
        return [Section("paper-table1", title, caption, blocks, (), (), lines, counts.records)]
    title = "Our runs in the form of Table 1: dataset statistics"
    caption = "Counts of the datasets in our records. Datasets with the counts of the paper come first."
    lines = [
        {"source": "ours", "dataset": dataset}
        | {name: int(counts.means[dataset, "", name].value) for name in COUNTS}
        for dataset in counts.datasets
    ]
    return [Section("ours-datasets", title, caption, blocks, (), (), lines)]


def _prefixes(study: Study) -> tuple[str, ...]:
    return ("", MASKED) if study.source == "ours" else ("",)


def _quality(kind: str, study: Study, layout: Layout) -> list[Section]:
    """Tables 2 to 4 (`kind` quality), or Table 8 (integration) with its improvements; none without one."""
    methods, variants, ours = layout.tables[kind].methods, kind == "integration", study.source == "ours"
    baselines = [name for name in methods if name != layout.subject]
    if not study.has(METRICS, baselines if variants else None):
        return []
    blocks, lines = [], study.lines(_measures(kind, layout), methods if variants or not ours else ())
    for prefix in _prefixes(study):
        blocks.append(tables.quality(study, layout, methods, prefix, others=not variants))
        if variants:
            blocks += tables.improvements([study], layout, baselines, prefix)
            lines += _improvement_lines([study], layout, baselines, prefix)
    notes = [ACROSS]
    if variants:
        notes += [IMPROVED.format(1 - layout.confidence), *([OURS] if ours else [])]
    notes += [UNMASKED, SPREAD] if ours else []
    return [_section(kind, [study], layout, blocks, notes, lines)]


def _improvement(studies: Sequence[Study], layout: Layout) -> Section:
    prefixes, baselines = _prefixes(studies[0]), layout.tables["improvement"].methods
    blocks, lines = [], []
    for prefix in prefixes:
        blocks += tables.improvements(studies, layout, baselines, prefix)
        lines += _improvement_lines(studies, layout, baselines, prefix)
    notes = [IMPROVED.format(1 - layout.confidence)]
    if studies[0].source == "paper":
        notes.append(
            "Computed from Tables 2 to 4. The section Derived figures compares them with the printed Table 5."
        )
    else:
        notes += [OURS, UNMASKED]
    return _section("improvement", studies, layout, blocks, notes, lines)


def _improvement_lines(
    studies: Sequence[Study], layout: Layout, baselines: Sequence[str], prefix: str
) -> Lines:
    """Improvements in full precision, with the number of datasets."""
    lines = []
    for study, metric, baseline in product(studies, METRICS, baselines):
        if both := derived.pairs(study, layout.subject, baseline, prefix + metric):
            lines.append(
                {
                    "source": study.source,
                    "llm": study.llm,
                    "protocol": study.protocol or None,
                    "method": layout.subject,
                    "baseline": baseline,
                    "measure": prefix + metric,
                    "improvement_percent": derived.mean_ratio("improvement", both),
                    "p": derived.p_value(both),
                    "datasets": len(both),
                }
            )
    return lines


def _costs(studies: Sequence[Study], layout: Layout) -> list[Section]:
    result = []
    for kind, measures, ratio in COSTS:
        blocks = [
            tables.costs(
                [study for study in studies if study.has([measure])], layout, kind, measure, ratio, title
            )
            for measure, title in measures.items()
            if any(study.has([measure]) for study in studies)
        ]
        if blocks:
            notes = [
                "Best and second: the lowest among the methods of a language model on a dataset.",
                COST_NOTES[kind],
            ]
            result.append(_section(kind, studies, layout, blocks, notes, _lines(studies, measures)))
    return result


def _tuned(study: Study, layout: Layout) -> bool:
    """Whether it has a hyper-parameter of Tables S1 to S3."""
    return any(study.has([column.hyperparameter], [column.method]) for column in layout.columns)


def _best(study: Study, layout: Layout) -> list[Section]:
    """Tables S1 to S3; none without a hyper-parameter that was tuned."""
    if not _tuned(study, layout):
        return []
    symbols = dict.fromkeys(f"{column.symbol}: {column.hyperparameter}" for column in layout.columns)
    notes = [f"{'; '.join(symbols)}."]
    if study.source == "ours":
        notes.append("Methods that were not tuned have no value here.")
    lines = study.lines(_measures("best", layout))
    return [_section("best", [study], layout, [tables.best(study, layout)], notes, lines)]


def _section(
    kind: str, studies: Sequence[Study], layout: Layout, blocks: Sequence[Block], notes: Sequence[str],
    lines: Sequence[Mapping[str, Any]] = (),
) -> Section:  # fmt: skip
    """A section of the paper's figures, or of ours under one protocol."""
    table, first = layout.tables[kind], studies[0]
    number = _number(table, first.llm, layout)
    named = table.title[0].lower() + table.title[1:]
    single = "" not in table.numbers
    if first.source == "paper":
        about = f" ({layout.llms[first.llm]})" if single else ""
        stem, title = f"paper-table{number}", f"Table {number}: {named}{about}"
        caption = f"Published in {layout.source}{about}."
    else:
        about = f"{first.llm}, protocol {first.protocol}" if single else f"protocol {first.protocol}"
        stem = "-".join(["ours", kind, *([slug(first.llm)] if single else []), slug(first.protocol)])
        title = f"Our runs in the form of Table {number}: {named} ({about})"
        models = ", ".join(dict.fromkeys(study.llm for study in studies))
        caption = f"Measured in our runs: language model {models}, protocol {first.protocol}."
        if others := [study.llm for study in studies if study.llm not in layout.llms]:
            caption += f" The paper does not use {', '.join(others)}."
    several = len(studies) > 1
    own = [f"{study.llm}: {note}" if several else note for study in studies for note in study.notes]
    return Section(stem, title, caption, blocks, [*notes, *own], (), lines, _records(blocks, studies))


# --- The paper's figures beside ours ------------------------------------------------------------------------


def _compared_statistics(theirs: Study, own: Study, layout: Layout) -> Section:
    """Table 1 beside the fingerprints of our datasets."""
    block = tables.compare_statistics(theirs, own)
    caption = (
        f"Table 1 of {layout.source} and the counts in our records; the difference is ours minus the paper's."
    )
    title = "Table 1 and our runs: dataset statistics"
    return Section("both-datasets", title, caption, [block] if block else [], records=theirs.records)


def _compared(paper: Study, own: Study, layout: Layout) -> list[Section]:
    """The tables of one language model and protocol of ours beside the paper's, where both have figures."""
    if not tables.common(paper, own):
        return []
    baselines = layout.tables["improvement"].methods
    variants = [name for name in layout.tables["integration"].methods if name != layout.subject]
    best = tables.compare_best(paper, own, layout) if _tuned(own, layout) else None
    blocks_of: dict[str, list[Block | None]] = {
        "quality": _compared_quality("quality", paper, own, layout, baselines),
        **{
            kind: _compared_costs(kind, measures, ratio, paper, own, layout)
            for kind, measures, ratio in COSTS
        },
        "integration": _compared_quality("integration", paper, own, layout, variants),
        "best": [best],
    }
    return [
        _compared_section(kind, paper, own, layout, [block for block in blocks if block])
        for kind, blocks in blocks_of.items()
        if any(blocks)
    ]


def _compared_quality(
    kind: str, paper: Study, own: Study, layout: Layout, baselines: Sequence[str]
) -> list[Block | None]:
    """Figures raw and masked, and the mean improvements that follow from them."""
    methods = baselines if kind == "integration" else layout.tables[kind].methods
    if not own.has(METRICS, methods) or not paper.has(METRICS, methods):
        return []
    blocks: list[Block | None] = []
    for prefix in ("", MASKED):
        blocks += tables.compare_quality(paper, own, layout, kind, prefix)
        measures = [(metric, prefix + metric) for metric in METRICS]
        title = f"Mean improvement of {layout.methods[layout.subject]}, %{', ours masked' if prefix else ''}"
        blocks.append(tables.compare_ratios(paper, own, layout, "improvement", measures, baselines, title))
    return blocks


def _compared_costs(
    kind: str, measures: Mapping[str, str], ratio: str, paper: Study, own: Study, layout: Layout
) -> list[Block | None]:
    measure, title = next(iter(measures.items()))  # the paper has this one only
    if not own.has([measure]):
        return []
    others = [name for name in layout.tables[kind].methods if name != layout.subject]
    head = f"Mean {ratio} by {layout.methods[layout.subject]}{', %' if ratio == 'reduction' else ''}"
    return [
        tables.compare_costs(paper, own, layout, kind, measure, title),
        tables.compare_ratios(paper, own, layout, ratio, [(measure, measure)], others, head),
    ]


def _compared_section(kind: str, paper: Study, own: Study, layout: Layout, blocks: list[Block]) -> Section:
    table, name = layout.tables[kind], layout.llms[paper.llm]
    number = _number(table, paper.llm, layout)
    about = f"{own.llm}, protocol {own.protocol}"
    caption = (
        f"Table {number} of {layout.source} ({name}) compared with our runs ({about}). "
        "Difference: ours minus the paper's. Relative: the difference in per cent of the paper's figure."
    )
    if paper.llm != own.llm:
        caption += f" The language models differ: {name} in the paper, {own.llm} in our runs."
    missing = [label for dataset, label in layout.datasets.items() if dataset not in own.datasets]
    notes = [f"We have no runs on {', '.join(missing)}."] if missing else []
    if kind in ("quality", "integration"):
        notes += [
            "Best and second are marked for each source among the methods under one metric.",
            UNMASKED,
            SPREAD,
        ]
    if kind in COST_NOTES:
        hardware = "The hardware differs: the paper used V100 (Sci, Pantry, Tools) and A100 (Toys, Ins)."
        notes += [COST_NOTES[kind], hardware]
    if kind != "best":
        notes.append("Means are over the datasets that both the paper and our runs have.")
    methods = table.methods if kind == "integration" else ()
    return Section(
        f"both-{kind}-{slug(own.llm)}-{slug(own.protocol)}",
        f"Table {number} and our runs: {table.title[0].lower()}{table.title[1:]} ({about})",
        caption,
        blocks,
        [*notes, *own.notes],
        (),
        _lines((paper, own), _measures(kind, layout), methods),
        _records(blocks, (paper, own)),
    )


# --- What both share ----------------------------------------------------------------------------------------


def _number(table: TableLayout, llm: str, layout: Layout) -> str:
    """The paper's number of a table; of a language model that it does not have, that of its stand-in."""
    return table.numbers.get("") or table.numbers.get(llm) or table.numbers[layout.stand_in]


def _measures(kind: str, layout: Layout) -> Collection[str]:
    """The measures that a kind of table shows."""
    if kind in ("quality", "integration"):
        return [*METRICS, *(MASKED + metric for metric in METRICS)]
    known = {"time": TIMES, "memory": MEMORIES, "best": {column.hyperparameter for column in layout.columns}}
    return known[kind]


def _lines(studies: Iterable[Study], measures: Collection[str], methods: Collection[str] = ()) -> Lines:
    return [line for study in studies for line in study.lines(measures, methods)]


def _records(blocks: Sequence[Block], studies: Iterable[Study]) -> dict[str, Any]:
    """The provenance of the cells of these tables."""
    used = {cell.record for block in blocks for row in block.rows for cell in row}
    return {name: value for study in studies for name, value in study.records.items() if name in used}
