"""Sections of the paper's tables with our figures beside the printed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark.report import beside
from benchmark.report.measured import MASKED, MEMORIES, TIMES, Study, counts_of, printed
from benchmark.report.names import slug
from benchmark.report.section import Section
from benchmark.report.study_parts import (
    SAID,
    SPREAD,
    STATISTICS,
    UNMASKED,
    behind,
    lines_of,
    measures_of,
    printed_counts,
)
from benchmark.report.styles import Block
from benchmark.results.published import Layout, Published
from benchmark.results.record import METRICS
from benchmark.results.stored import StoredRun

Blocks = list[Block | None]


def statistics(paper: Published, records: Sequence[StoredRun]) -> Section:
    """Table 1 beside the fingerprints of our datasets."""
    counts: Mapping[str, tuple[str, Mapping[str, float]]] = {
        **{name: (shown, {}) for name, shown in paper.layout.datasets.items()},
        **counts_of(records, paper.layout),
    }
    block = beside.statistics(printed_counts(paper), counts)
    known = {STATISTICS: printed(STATISTICS, paper.layout)}
    caption = (
        f"Table 1 of {paper.layout.source} beside the fingerprints of our records; ours minus the paper's."
    )
    title = "Table 1 beside ours: dataset statistics"
    return Section("both-datasets", title, caption, [block] if block else [], records=known)


def pair(paper: Study, own: Study, layout: Layout) -> list[Section]:
    """The tables of one language model and protocol of ours beside the paper's, where both have figures."""
    if not beside.common(paper, own):
        return []
    found = {
        "quality": _quality("quality", paper, own, layout, layout.tables["improvement"].methods),
        "time": _costs("time", "speedup", TIMES, paper, own, layout),
        "memory": _costs("memory", "reduction", MEMORIES, paper, own, layout),
        "integration": _quality("integration", paper, own, layout, _variants(layout)),
        "best": _best(paper, own, layout),
    }
    return [
        _section(kind, paper, own, layout, [block for block in blocks if block])
        for kind, blocks in found.items()
        if any(blocks)
    ]


def _variants(layout: Layout) -> list[str]:
    return [name for name in layout.tables["integration"].methods if name != layout.subject]


def _quality(kind: str, paper: Study, own: Study, layout: Layout, baselines: Sequence[str]) -> Blocks:
    """Figures raw and masked, and the mean improvements that follow from them."""
    wanted = baselines if kind == "integration" else layout.tables[kind].methods
    if not own.has(METRICS, wanted) or not paper.has(METRICS, wanted):
        return []
    blocks: Blocks = []
    for prefix in ("", MASKED):
        blocks += beside.quality(paper, own, layout, kind, prefix)
        measures = [(metric, prefix + metric) for metric in METRICS]
        title = f"Mean improvement of {layout.methods[layout.subject]}, %{', ours masked' if prefix else ''}"
        blocks.append(beside.ratios(paper, own, layout, "improvement", measures, baselines, title))
    return blocks


def _costs(
    kind: str, ratio: str, measures: Mapping[str, str], paper: Study, own: Study, layout: Layout
) -> Blocks:
    measure, title = next(iter(measures.items()))  # the paper has this one only
    if not own.has([measure]):
        return []
    methods = layout.tables[kind].methods
    head = f"Mean {ratio} by {layout.methods[layout.subject]}{', %' if ratio == 'reduction' else ''}"
    others = [name for name in methods if name != layout.subject]
    return [
        beside.costs(paper, own, layout, kind, measure, title),
        beside.ratios(paper, own, layout, ratio, [(measure, measure)], others, head),
    ]


def _best(paper: Study, own: Study, layout: Layout) -> Blocks:
    tuned = any(own.has([one.hyperparameter], [one.method]) for one in layout.columns)
    return [beside.best(paper, own, layout)] if tuned else []


def _section(kind: str, paper: Study, own: Study, layout: Layout, blocks: list[Block]) -> Section:
    table, name = layout.tables[kind], layout.llms[paper.llm]
    number = table.numbers.get("") or table.numbers.get(paper.llm) or table.numbers[layout.stand_in]
    about = f"{own.llm}, protocol {own.protocol}"
    caption = (
        f"Table {number} of {layout.source} ({name}) beside our records ({about}). "
        "Difference: ours minus the paper's; relative: in per cent of the paper's."
    )
    if paper.llm != own.llm:
        caption += f" The language model differs: {name} in the paper, {own.llm} here."
    missing = [shown for dataset, shown in layout.datasets.items() if dataset not in own.datasets]
    notes = [f"Not among our records: {', '.join(missing)}."] if missing else []
    if kind in ("quality", "integration"):
        notes += ["Best and second: of each side, among the methods under one metric.", UNMASKED, SPREAD]
    if kind in SAID:
        notes += [
            SAID[kind],
            "Hardware differs: the paper's is V100 (Sci, Pantry, Tools) and A100 (Toys, Ins).",
        ]
    if kind != "best":
        notes.append("Means are over the datasets that both have.")
    methods = table.methods if kind == "integration" else ()
    lines = lines_of((paper, own), measures_of(kind, layout), methods)
    return Section(
        f"both-{kind}-{slug(own.llm)}-{slug(own.protocol)}",
        f"Table {number} beside ours: {table.title[0].lower()}{table.title[1:]} ({about})",
        caption,
        blocks,
        [*notes, *own.notes],
        (),
        lines,
        behind(blocks, (paper, own)),
    )
