"""The paper's tables as sections: from what the paper prints, from our records, or both side by side.

A table of ours never mixes protocols: each protocol has its own, `paper` first. What is computed from the
figures is defined in `benchmark.report.derived`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from benchmark.report import derived
from benchmark.report import paper_blocks as tables
from benchmark.report.paper_study import MASKED, MEMORIES, TIMES, Study, counts_of, of_paper, of_records
from benchmark.report.section import Block, Section
from benchmark.results.figures import Results
from benchmark.results.groups import slug
from benchmark.results.published import COUNTS, published
from benchmark.results.schema import METRICS

UNMASKED = (
    "The paper does not say whether it leaves the items of the user's history out of the ranking. Our "
    "figures are shown with this mask first, then without it. The paper's ratio of N@10 to R@10 on Sci (0.63 "
    "to 0.65) is nearer to that of our masked figures."
)
IMPROVED = (
    "Improvement: the mean over datasets of 100 (s / b - 1), where s is the figure of the proposed method "
    "and b that of the baseline. p: two-sided paired t-test of s - b over datasets; *: p < {:.2f}. The paper "
    "does not say whether its test is one-sided; a one-sided p is half as large."
)
OURS = (
    "Means are over the datasets on which both methods have a figure. The t-test assumes that datasets are "
    "independent; a dataset and a part of it are not."
)
FROM_TABLES = (
    "Computed from Tables 2 to 4. The section Derived figures compares them with the printed Table 5."
)
COST_NOTES = {
    "time": "Mean speedup: the mean over datasets of b / s, where s is the time of the proposed method and b "
    "that of the row's method.",
    "memory": "Mean reduction: the mean over datasets of 100 (1 - s / b), where s is the memory of the "
    "proposed method and b that of the row's method. Our memory is what torch allocated on a GPU, or the "
    "resident memory of the process on a CPU: the largest of the seeds, in 10^9 bytes. The paper does not "
    "define its GB.",
}
COSTS = {"time": TIMES, "memory": MEMORIES}
"""Kind of a table of costs -> its measures."""
RATIOS = {"time": "speedup", "memory": "reduction"}
"""Kind of a table of costs -> what is averaged over datasets."""


def sections(results: Results) -> list[Section]:
    """The paper's tables from a source: `paper` needs no runs, `ours` needs only them.

    Raises `UserError` for a published file that is damaged.
    """
    figures = results.figures
    theirs = counts_of("paper", figures), of_paper(figures)
    if results.source == "paper":
        return _paper(*theirs)
    ours = counts_of("ours", figures), of_records(results.groups.values())
    return _ours(*ours) if results.source == "ours" else _both(*theirs, *ours)


def _paper(counts: Study, studies: Sequence[Study]) -> list[Section]:
    return [
        *_statistics(counts),
        *(section for study in studies for section in _quality("quality", study)),
        _improvement(studies),
        *_costs(studies),
        *(section for study in studies for section in _quality("integration", study)),
        *(section for study in studies for section in _best(study)),
        derived.section(published(), studies),
    ]


def _ours(counts: Study, studies: Sequence[Study]) -> list[Section]:
    result = _statistics(counts)
    for protocol in dict.fromkeys(study.protocol for study in studies):
        same = [study for study in studies if study.protocol == protocol]
        result += [section for study in same for section in _quality("quality", study)]
        if compared := [study for study in same if study.has(METRICS, [published().layout.subject])]:
            result.append(_improvement(compared))
        result += _costs(same)
        for study in same:
            result += [*_quality("integration", study), *_best(study)]
    return result


def _both(counts: Study, studies: Sequence[Study], own_counts: Study, ours: Sequence[Study]) -> list[Section]:
    """Side by side what both have; of the paper alone what our runs have no counterpart of."""
    layout, theirs = published().layout, {study.llm: study for study in studies}
    result = [_compared_statistics(counts, own_counts)]
    paired: set[str] = set()
    for own in ours:
        pair = _compared(theirs.get(own.llm, theirs[layout.stand_in]), own)
        single = {table.numbers.get(own.llm) for table in layout.tables.values()}
        titles = (section.title.partition(" and our runs")[0] for section in pair)
        paired |= {title for title in titles if title.removeprefix("Table ") in single}
        result += pair
    alone = [section for section in _paper(counts, studies) if section.title.partition(":")[0] not in paired]
    return [*result, *(section for section in alone if section.stem != "paper-table1")]


# --- Tables of one source -----------------------------------------------------------------------------------


def _statistics(counts: Study) -> list[Section]:
    if not counts.datasets:
        return []
    blocks = [tables.dataset_statistics(counts)]
    if counts.source == "paper":
        title = "Table 1: dataset statistics"
        source = published().layout.source
        caption = f"Published in {source}: users, items and interactions after preparation."
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
    return (MASKED, "") if study.source == "ours" else ("",)


def _quality(kind: str, study: Study) -> list[Section]:
    """Tables 2 to 4 (`kind` quality), or Table 8 (integration) with its improvements; none without one."""
    layout, variants, ours = published().layout, kind == "integration", study.source == "ours"
    methods = layout.tables[kind].methods
    baselines = [name for name in methods if name != layout.subject]
    if not study.has(METRICS, baselines if variants else None):
        return []
    blocks, lines = [], study.lines(_measures(kind), methods if variants or not ours else ())
    for prefix in _prefixes(study):
        blocks.append(tables.quality(study, methods, prefix, others=not variants))
        if variants:
            improved, figures = tables.improvements([study], baselines, prefix)
            blocks += improved
            lines += figures
    notes = []
    if variants:
        notes += [IMPROVED.format(1 - layout.confidence), *([OURS] if ours else [])]
    notes += [UNMASKED] if ours else []
    return [_section(kind, [study], blocks, notes, lines)]


def _improvement(studies: Sequence[Study]) -> Section:
    layout = published().layout
    blocks, lines = [], []
    for prefix in _prefixes(studies[0]):
        improved, figures = tables.improvements(studies, layout.tables["improvement"].methods, prefix)
        blocks += improved
        lines += figures
    notes = [FROM_TABLES] if studies[0].source == "paper" else [OURS, UNMASKED]
    return _section("improvement", studies, blocks, [IMPROVED.format(1 - layout.confidence), *notes], lines)


def _costs(studies: Sequence[Study]) -> list[Section]:
    result = []
    for kind, ratio in RATIOS.items():
        blocks = [
            tables.costs(measured, kind, measure, ratio, title)
            for measure, title in COSTS[kind].items()
            if (measured := [study for study in studies if study.has([measure])])
        ]
        if blocks:
            lines = [line for study in studies for line in study.lines(COSTS[kind])]
            result.append(_section(kind, studies, blocks, [COST_NOTES[kind]], lines))
    return result


def _tuned(study: Study) -> bool:
    """Whether it has a hyper-parameter of Tables S1 to S3."""
    return any(study.has([column.hyperparameter], [column.method]) for column in published().layout.columns)


def _best(study: Study) -> list[Section]:
    """Tables S1 to S3; none without a hyper-parameter that was tuned."""
    if not _tuned(study):
        return []
    symbols = (f"{column.symbol}: {column.hyperparameter}" for column in published().layout.columns)
    notes = [f"{'; '.join(dict.fromkeys(symbols))}."]
    if study.source == "ours":
        notes.append("Methods that were not tuned have no value here.")
    return [_section("best", [study], [tables.best(study)], notes, study.lines(_measures("best")))]


def _section(
    kind: str,
    studies: Sequence[Study],
    blocks: Sequence[Block],
    notes: Sequence[str],
    lines: Sequence[Mapping[str, Any]],
) -> Section:
    """A section of the paper's figures, or of ours under one protocol."""
    layout, first = published().layout, studies[0]
    number = _number(kind, first.llm)
    named = _lower(layout.tables[kind].title)
    single = "" not in layout.tables[kind].numbers
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


def _compared_statistics(theirs: Study, own: Study) -> Section:
    """Table 1 beside the fingerprints of our datasets."""
    caption = (
        f"Table 1 of {published().layout.source} and the counts in our records; the difference is ours minus "
        "the paper's."
    )
    title = "Table 1 and our runs: dataset statistics"
    blocks = tables.compare_statistics(theirs, own)
    return Section("both-datasets", title, caption, blocks, records=theirs.records)


def _compared(paper: Study, own: Study) -> list[Section]:
    """The tables of one language model and protocol of ours beside the paper's, where both have figures."""
    if not tables.common(paper, own):
        return []
    layout = published().layout
    variants = [name for name in layout.tables["integration"].methods if name != layout.subject]
    blocks_of = {
        "quality": _compared_quality("quality", paper, own, layout.tables["improvement"].methods),
        **{kind: _compared_costs(kind, paper, own) for kind in RATIOS},
        "integration": _compared_quality("integration", paper, own, variants),
        "best": tables.compare_best(paper, own) if _tuned(own) else [],
    }
    return [_compared_section(kind, paper, own, blocks) for kind, blocks in blocks_of.items() if blocks]


def _compared_quality(kind: str, paper: Study, own: Study, baselines: Sequence[str]) -> list[Block]:
    """Figures raw and masked, and the mean improvements that follow from them."""
    layout = published().layout
    methods = baselines if kind == "integration" else layout.tables[kind].methods
    if not own.has(METRICS, methods) or not paper.has(METRICS, methods):
        return []
    blocks = []
    for prefix in (MASKED, ""):
        blocks += tables.compare_quality(paper, own, kind, prefix)
        measures = [(metric, prefix + metric) for metric in METRICS]
        title = f"Mean improvement of {layout.methods[layout.subject]}, %{', ours masked' if prefix else ''}"
        blocks += tables.compare_ratios(paper, own, "improvement", measures, baselines, title)
    return blocks


def _compared_costs(kind: str, paper: Study, own: Study) -> list[Block]:
    measure, title = next(iter(COSTS[kind].items()))  # the paper has this one only
    if not own.has([measure]):
        return []
    layout, ratio = published().layout, RATIOS[kind]
    others = [name for name in layout.tables[kind].methods if name != layout.subject]
    head = f"Mean {ratio} by {layout.methods[layout.subject]}{', %' if ratio == 'reduction' else ''}"
    return [
        *tables.compare_costs(paper, own, kind, measure, title),
        *tables.compare_ratios(paper, own, ratio, [(measure, measure)], others, head),
    ]


def _compared_section(kind: str, paper: Study, own: Study, blocks: list[Block]) -> Section:
    layout = published().layout
    table, name, number = layout.tables[kind], layout.llms[paper.llm], _number(kind, paper.llm)
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
        notes.append(UNMASKED)
    if kind in COST_NOTES:
        hardware = "The hardware differs: the paper used V100 (Sci, Pantry, Tools) and A100 (Toys, Ins)."
        notes += [COST_NOTES[kind], hardware]
    if kind != "best":
        notes.append("Means are over the datasets that both the paper and our runs have.")
    methods = table.methods if kind == "integration" else ()
    return Section(
        f"both-{kind}-{slug(own.llm)}-{slug(own.protocol)}",
        f"Table {number} and our runs: {_lower(table.title)} ({about})",
        caption,
        blocks,
        [*notes, *own.notes],
        (),
        [line for study in (paper, own) for line in study.lines(_measures(kind), methods)],
        _records(blocks, (paper, own)),
    )


# --- What both share ----------------------------------------------------------------------------------------


def _lower(title: str) -> str:
    return title[0].lower() + title[1:]


def _number(kind: str, llm: str) -> str:
    """The paper's number of a table; of a language model that it does not have, that of its stand-in."""
    layout = published().layout
    numbers = layout.tables[kind].numbers
    return numbers.get("") or numbers.get(llm) or numbers[layout.stand_in]


def _measures(kind: str) -> Collection[str]:
    """The measures that a kind of table shows."""
    if kind == "best":
        return {column.hyperparameter for column in published().layout.columns}
    return COSTS.get(kind) or [*METRICS, *(MASKED + metric for metric in METRICS)]


def _records(blocks: Sequence[Block], studies: Iterable[Study]) -> dict[str, Any]:
    """The provenance of the cells of these tables."""
    used = {cell.record for block in blocks for row in block.rows for cell in row}
    return {name: value for study in studies for name, value in study.records.items() if name in used}
