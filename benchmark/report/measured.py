"""Figures of run records and of the paper in one form, so that a table need not know whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmark.report.generations import bare, mark, newest, note, oldest
from benchmark.report.provenance import configuration
from benchmark.report.rows import Group, Row, groups
from benchmark.report.stats import Estimate
from benchmark.report.tables import COST, peak_memory
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS, Figure, Layout, Published, Source, dataset_of
from benchmark.results.record import METRICS, RunRecord
from benchmark.results.stored import StoredRun

MASKED = "masked "
"""Before a metric: the user's history is left out of the ranking."""
TIMES = {"epoch_seconds": "wall seconds", "epoch_cpu_seconds": "CPU seconds"}
MEMORIES = {"gpu_memory_gb": "GPU memory in GB", "host_memory_gb": "host memory in GB"}
LABELS = {**{name: measure(name).label for name in METRICS}, **TIMES, **MEMORIES}
"""Measures as tables show them."""
PROTOCOLS_FIRST = ("paper",)
TUNED = ("grid", "paper")
"""Ways of tuning, the one that stands for a method first."""


@dataclass(frozen=True)
class Study:
    """What one source has under one language model and, of ours, one protocol."""

    source: Source
    llm: str
    protocol: str
    figures: Mapping[tuple[str, str, str], Figure]
    """(dataset, method, measure) -> figure."""
    datasets: Mapping[str, str]
    """The datasets in order -> how a table shows them."""
    notes: tuple[str, ...] = ()
    behind: Mapping[str, Any] = field(default_factory=dict)
    """For `Section.records`."""

    def get(self, dataset: str, method: str, measure: str) -> Figure | None:
        """A figure, where there is one."""
        return self.figures.get((dataset, method, measure))

    def has(self, measures: Iterable[str], methods: Iterable[str] | None = None) -> bool:
        """Whether there is any figure of these measures and methods."""
        wanted = set(measures)
        named = None if methods is None else set(methods)
        return any(key[2] in wanted and (named is None or key[1] in named) for key in self.figures)

    def methods(self, measures: Iterable[str], first: Sequence[str]) -> list[str]:
        """`first` in its order, then the others that have a figure of these measures, by name."""
        wanted = set(measures)
        others = {key[1] for key in self.figures if key[2] in wanted and key[1]} - set(first)
        return [*first, *sorted(others)]


def of_paper(paper: Published) -> list[Study]:
    """One study a language model of the paper, in its order."""
    found = []
    for llm in paper.layout.llms:
        own = {(f.dataset, f.method, f.measure): f for f in paper.figures if f.llm == llm}
        behind = {record: printed(record, paper.layout) for record in {f.record for f in own.values()}}
        found.append(Study("paper", llm, "", own, paper.layout.datasets, (), behind))
    return found


def printed(record: str, layout: Layout) -> dict[str, Any]:
    """What stands behind a published figure."""
    return {
        "source": layout.source,
        "table": record.removeprefix("paper:table"),
        "typed into": "results/paper",
    }


def of_records(records: Sequence[StoredRun], layout: Layout) -> list[Study]:
    """One study a protocol and language model of the records: the protocol `paper` and the paper's language
    models first, then by name.

    Of a method's configurations on a dataset one stands for it: one tuned by search, else one with the
    paper's values, else one with the fewest settings of its own; of several the best by validation Recall@10.
    The notes say which, and what was left out.
    """
    tables: dict[tuple[str, str], dict[str, list[Group]]] = {}
    for group in groups(records):
        if group.key.llm is not None:
            family = tables.setdefault((group.key.llm, group.key.protocol), {})
            family.setdefault(dataset_key(group.rows[0].runs[0], layout), []).append(group)
    known = list(layout.llms)

    def place(key: tuple[str, str]) -> tuple[Any, ...]:
        llm, protocol = key
        return (
            protocol not in PROTOCOLS_FIRST,
            protocol,
            known.index(llm) if llm in known else len(known),
            llm,
        )

    return [
        _study(llm, protocol, tables[llm, protocol], layout) for llm, protocol in sorted(tables, key=place)
    ]


def dataset_key(run: RunRecord, layout: Layout) -> str:
    """The paper's name of the dataset of a run where the counts are the paper's, else the run's own."""
    same = dataset_of(run.data.get("fingerprint") or {})
    return same or (
        f"{run.dataset} (not the paper's counts)" if run.dataset in layout.datasets else run.dataset
    )


def _study(llm: str, protocol: str, found: Mapping[str, list[Group]], layout: Layout) -> Study:
    order = [name for name in layout.datasets if name in found] + sorted(set(found) - set(layout.datasets))
    figures: dict[tuple[str, str, str], Figure] = {}
    shown, notes, behind = {}, [], {}
    hardware: dict[str, list[str]] = {}
    used: dict[str, dict[str, Sequence[RunRecord]]] = {}
    for dataset in order:
        group, others = _fullest(found[dataset], layout)
        shown[dataset] = _shown(dataset, group.key.dataset, layout)
        hardware.setdefault(group.hardware, []).append(shown[dataset])
        if group.missed:
            notes.append(f"{shown[dataset]}: {group.missed}.")
        if others:
            apart = "; ".join(", ".join(other.differs) or other.hardware for other in others)
            notes.append(
                f"{shown[dataset]}: left out {len(others)} table(s) of other settings or hardware: {apart}."
            )
        for method, rows in _by_method(group).items():
            row = rows[0]
            stored = row.finished
            if not stored:
                notes.append(f"{row.label} on {shown[dataset]}: {row.status}.")
                continue
            used.setdefault(dataset, {})[method] = row.ok
            if len(rows) > 1 or bare(row.label) != method:
                left = f" (not: {'; '.join(other.label for other in rows[1:])})" if rows[1:] else ""
                notes.append(f"{method} on {shown[dataset]} is {row.label}{left}.")
            record = stored[0].configuration
            behind[record] = configuration(stored)
            for name, value in _measures(row).items():
                figures[dataset, method, name] = Figure(
                    name, value.mean, dataset, llm, method, value.half_width, value.n, "ours", record
                )
    told = [f"{', '.join(names)}: {where}" for where, names in hardware.items()]
    notes += _mark_older(shown, used)
    return Study("ours", llm, protocol, figures, shown, (f"On {'; '.join(told)}.", *notes), behind)


def _mark_older(shown: dict[str, str], used: Mapping[str, Mapping[str, Sequence[RunRecord]]]) -> list[str]:
    """Mark the datasets of which a figure is of an older generation than the newest of all; the notes that
    say which figures."""
    runs = [run for rows in used.values() for row in rows.values() for run in row]
    said = note(run.generation for run in runs)
    for dataset, rows in used.items():
        if older := [method for method, row in rows.items() if oldest(row, 0) < newest(runs)]:
            shown[dataset], name = mark(shown[dataset], True), shown[dataset]
            said.append(f"{name}: of an older generation are {', '.join(older)}")
    return [f"{line}." for line in said]


def _shown(dataset: str, own: str, layout: Layout) -> str:
    name = layout.datasets.get(dataset, dataset)
    return name if own in (dataset, name) else f"{name} ({own})" if dataset in layout.datasets else name


def _fullest(found: Sequence[Group], layout: Layout) -> tuple[Group, list[Group]]:
    """The group with most of the paper's methods, then most rows, then the first; and the others."""

    def size(group: Group) -> tuple[int, int]:
        named = {row.runs[0].method for row in group.rows if row.ok}
        return len(named & set(layout.methods)), len(group.rows)

    best = max(found, key=size)
    return best, [group for group in found if group is not best]


def _by_method(group: Group) -> dict[str, list[Row]]:
    """Method -> its rows, the one that stands for it first."""
    found: dict[str, list[Row]] = {}
    for row in group.rows:
        found.setdefault(row.runs[0].method, []).append(row)

    def place(row: Row) -> tuple[bool, int, int, float]:
        run = row.runs[0]
        own = [pair for pair in run.overrides if pair not in group.shared]
        valid = row.quality("valid", "recall@10")
        tuned = TUNED.index(row.tuning.mode) if row.tuning else len(TUNED)
        return not row.ok, tuned, len(own), -(valid.mean if valid else 0.0)

    return {method: sorted(rows, key=place) for method, rows in found.items()}


def _measures(row: Row) -> dict[str, Estimate]:
    """Every measure of a row that was taken."""
    found: dict[str, Estimate | None] = {}
    for metric in METRICS:
        found[metric] = row.quality("test", metric)
        found[MASKED + metric] = row.quality("test_masked", metric)
    for name in TIMES:
        found[name] = row.figure(COST[name])
    if memory := peak_memory(row):
        value = memory[0] / 1e9
        found["gpu_memory_gb" if memory[1] == "GPU" else "host_memory_gb"] = Estimate(value, None, 1, value)
    found |= {name: Estimate(value, None, 1, value) for name, value in searched(row).items()}
    return {name: value for name, value in found.items() if value is not None}


def searched(row: Row) -> dict[str, float]:
    """Hyper-parameters that a search of ours chose, those that are numbers."""
    found = {}
    for pair in row.tuning.chosen if row.tuning and row.tuning.mode == "grid" else ():
        name, _, text = pair.partition("=")
        try:
            found[name] = float(text)
        except ValueError:
            continue
    return found


def counts_of(records: Sequence[StoredRun], layout: Layout) -> dict[str, tuple[str, dict[str, float]]]:
    """Dataset -> (as shown, its counts), of all records."""
    found: dict[str, tuple[str, dict[str, float]]] = {}
    for run in (stored.record for stored in records):
        print_ = run.data.get("fingerprint") or {}
        if all(name in print_ for name in COUNTS):
            key = dataset_key(run, layout)
            found.setdefault(key, (_shown(key, run.dataset, layout), {n: float(print_[n]) for n in COUNTS}))
    order = [*layout.datasets, *sorted(set(found) - set(layout.datasets))]
    return {key: found[key] for key in order if key in found}
