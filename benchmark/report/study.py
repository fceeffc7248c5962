"""The paper's tables as sections: from what the paper prints, from our records, or both side by side.

A table of ours never mixes protocols: each protocol has its own, `paper` first. What is computed from the
figures is defined in `benchmark.report.derived`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from benchmark.report import derived_tables, study_beside
from benchmark.report import study_tables as forms
from benchmark.report.measured import MASKED, MEMORIES, TIMES, Study, counts_of, of_paper, of_records, printed
from benchmark.report.section import Section
from benchmark.report.study_parts import (
    ACROSS,
    IMPROVED,
    OURS,
    SAID,
    SPREAD,
    STATISTICS,
    UNMASKED,
    line,
    lines_of,
    make,
    measures_of,
    plain,
    printed_counts,
)
from benchmark.results.published import Layout, Published, published
from benchmark.results.record import METRICS
from benchmark.results.stored import StoredRun
from methods.errors import unknown

Source = Literal["paper", "ours", "both"]
SOURCES: tuple[Source, ...] = ("paper", "ours", "both")


def sections(source: str, records: Sequence[StoredRun] = ()) -> list[Section]:
    """The paper's tables from a source: `paper` needs no records, `ours` needs only them.

    Raises `UserError` for another source, and for a published file that is damaged.
    """
    if source not in SOURCES:
        raise unknown("source of a report:", source, SOURCES)
    paper = published()
    if source == "paper":
        return _paper(paper)
    studies = of_records(records, paper.layout)
    if source == "ours":
        return _ours(studies, paper.layout, records)
    return _both(paper, studies, records)


def _paper(paper: Published) -> list[Section]:
    studies, layout = of_paper(paper), paper.layout
    found = [_printed_statistics(paper)]
    found += [_quality(study, layout) for study in studies]
    found.append(_improvement(studies, layout))
    found += _costs(studies, layout)
    found += [section for study in studies for section in _integration(study, layout)]
    found += [_best(study, layout) for study in studies]
    return [*found, derived_tables.section(paper, studies)]


def _ours(studies: Sequence[Study], layout: Layout, records: Sequence[StoredRun]) -> list[Section]:
    found = _statistics(layout, records)
    for protocol in dict.fromkeys(study.protocol for study in studies):
        same = [study for study in studies if study.protocol == protocol]
        found += [_quality(study, layout) for study in same if study.has(METRICS)]
        if compared := [study for study in same if study.has(METRICS, [layout.subject])]:
            found.append(_improvement(compared, layout))
        found += _costs(same, layout)
        for study in same:
            found += _integration(study, layout)
            if any(study.has([one.hyperparameter], [one.method]) for one in layout.columns):
                found.append(_best(study, layout))
    return found


def _both(paper: Published, ours: Sequence[Study], records: Sequence[StoredRun]) -> list[Section]:
    """Side by side what both have; of the paper alone what ours have no counterpart of."""
    layout, theirs = paper.layout, {study.llm: study for study in of_paper(paper)}
    found = [study_beside.statistics(paper, records)]
    paired: set[str] = set()
    for own in ours:
        pair = study_beside.pair(theirs.get(own.llm, theirs[layout.stand_in]), own, layout)
        single = {table.numbers.get(own.llm) for table in layout.tables.values()}
        titles = (section.title.partition(" beside")[0] for section in pair)
        paired |= {title for title in titles if title.removeprefix("Table ") in single}
        found += pair
    alone = [section for section in _paper(paper) if section.title.partition(":")[0] not in paired]
    return [*found, *(section for section in alone if section.stem != "paper-table1")]


def _printed_statistics(paper: Published) -> Section:
    layout = paper.layout
    counts = {
        name: (layout.datasets[name], {measure: one.value for measure, one in known.items()})
        for name, known in printed_counts(paper).items()
    }
    block = forms.dataset_statistics(counts, STATISTICS)
    caption = f"From what {layout.source} prints: users, items and interactions after preparation."
    lines = [line(one, "") for one in paper.figures if one.record == STATISTICS]
    behind = {STATISTICS: printed(STATISTICS, layout)}
    return Section(
        "paper-table1", "Table 1: dataset statistics", caption, [block], lines=lines, records=behind
    )


def _statistics(layout: Layout, records: Sequence[StoredRun]) -> list[Section]:
    counts = counts_of(records, layout)
    if not counts:
        return []
    caption = "The datasets of our records, from their fingerprints; those with the paper's counts first."
    lines = [
        {"source": "ours", "dataset": name, **{count: plain(value) for count, value in known.items()}}
        for name, (_, known) in counts.items()
    ]
    title = "Ours, as Table 1: dataset statistics"
    return [Section("ours-datasets", title, caption, [forms.dataset_statistics(counts)], lines=lines)]


def _prefixes(study: Study) -> tuple[str, ...]:
    return ("", MASKED) if study.source == "ours" else ("",)


def _quality(study: Study, layout: Layout) -> Section:
    methods = layout.tables["quality"].methods
    blocks = [forms.quality(study, layout, methods, prefix) for prefix in _prefixes(study)]
    notes = [ACROSS] if study.source == "paper" else [ACROSS, UNMASKED, SPREAD]
    shown = [] if study.source == "ours" else methods
    lines = lines_of([study], measures_of("quality", layout), shown)
    return make("quality", [study], layout, blocks, notes, lines)


def _improvement(studies: Sequence[Study], layout: Layout) -> Section:
    prefixes, baselines = _prefixes(studies[0]), layout.tables["improvement"].methods
    blocks = [
        block for prefix in prefixes for block in forms.improvements(studies, layout, baselines, prefix)
    ]
    lines = [
        one for prefix in prefixes for one in forms.improvement_lines(studies, layout, baselines, prefix)
    ]
    notes = [IMPROVED.format(1 - layout.confidence)]
    if studies[0].source == "paper":
        notes.append("Computed from Tables 2 to 4; the printed figures stand under Derived figures.")
    else:
        notes += [OURS, UNMASKED]
    return make("improvement", studies, layout, blocks, notes, lines)


def _costs(studies: Sequence[Study], layout: Layout) -> list[Section]:
    found = []
    for kind, measures, ratio in (("time", TIMES, "speedup"), ("memory", MEMORIES, "reduction")):
        blocks = [
            forms.costs([one for one in studies if one.has([measure])], layout, kind, measure, ratio, title)
            for measure, title in measures.items()
            if any(one.has([measure]) for one in studies)
        ]
        if blocks:
            notes = ["Best and second: the least of a language model's methods on a dataset.", SAID[kind]]
            lines = lines_of(studies, measures, [])
            found.append(make(kind, studies, layout, blocks, notes, lines))
    return found


def _integration(study: Study, layout: Layout) -> list[Section]:
    methods = layout.tables["integration"].methods
    baselines = [name for name in methods if name != layout.subject]
    if not study.has(METRICS, baselines):
        return []
    blocks, lines = [], []
    for prefix in _prefixes(study):
        blocks.append(forms.quality(study, layout, methods, prefix, others=False))
        blocks += forms.improvements([study], layout, baselines, prefix)
        lines += forms.improvement_lines([study], layout, baselines, prefix)
    notes = [ACROSS, IMPROVED.format(1 - layout.confidence)]
    notes += [OURS, UNMASKED, SPREAD] if study.source == "ours" else []
    lines = [*lines_of([study], measures_of("integration", layout), methods), *lines]
    return [make("integration", [study], layout, blocks, notes, lines)]


def _best(study: Study, layout: Layout) -> Section:
    symbols = dict.fromkeys(f"{one.symbol}: {one.hyperparameter}" for one in layout.columns)
    notes = [f"{'; '.join(symbols)}."]
    if study.source == "ours":
        notes.append("A method that was not tuned has no value here.")
    lines = lines_of([study], measures_of("best", layout), [])
    return make("best", [study], layout, [forms.best(study, layout)], notes, lines)
