"""The figures of the paper's tables, selected from the long table: what it prints, and what our runs gave.

A `Study` holds those of one source under one language model and, of ours, one protocol. Studies of both
sources have one form, so that a table is one function of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark.report.provenance import configuration
from benchmark.results.comparable import RunGroup, RunRow
from benchmark.results.generations import bare, mark, newest, note, oldest
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS, Layout, dataset_of
from benchmark.results.record import METRICS
from benchmark.results.statistics import SeedMean

if TYPE_CHECKING:
    from pandas import DataFrame

MASKED = "masked "
"""Before a metric: the user's history is left out of the ranking."""
TIMES = {"epoch_seconds": "wall seconds", "epoch_cpu_seconds": "CPU seconds"}
MEMORIES = {"gpu_memory_gb": "GPU memory in GB", "host_memory_gb": "host memory in GB"}
LABELS = {**{name: measure(name).label for name in METRICS}, **TIMES, **MEMORIES}
"""Measures as tables print them."""
STATISTICS = "paper:table1"
PROTOCOLS_FIRST = ("paper",)
TUNED = ("search", "grid", "paper", "given")
"""Ways of tuning, the one that stands for a method first."""


class Mean(NamedTuple):
    """A published figure, or the mean over the seeds of one configuration."""

    source: Literal["paper", "ours"]
    dataset: str
    method: str
    measure: str
    value: float
    half_width: float | None = None
    """Of the 95 % t interval over seeds; None where one number is known."""
    seeds: int = 1
    record: str = ""
    """`paper:<table>`, or the name of the configuration below the folder of the results."""

    @property
    def estimate(self) -> SeedMean:
        """The value and its interval."""
        return SeedMean(self.value, self.half_width, self.seeds, self.value, self.value)


@dataclass(frozen=True)
class Study:
    """The figures of one source under one language model and, of ours, one protocol."""

    source: Literal["paper", "ours"]
    llm: str
    protocol: str
    means: Mapping[tuple[str, str, str], Mean]
    """(dataset, method, measure) -> figure; datasets have the paper's names where their counts are its."""
    datasets: Mapping[str, str]
    """The datasets in order -> their names in a table."""
    notes: tuple[str, ...] = ()
    records: Mapping[str, Any] = field(default_factory=dict)
    """For `Section.records`."""

    def get(self, dataset: str, method: str, measure: str) -> Mean | None:
        """A figure, where there is one."""
        return self.means.get((dataset, method, measure))

    def has(self, measures: Iterable[str], methods: Iterable[str] | None = None) -> bool:
        """Whether there is any figure of these measures and methods."""
        measures, methods = set(measures), None if methods is None else set(methods)
        return any(key[2] in measures and (methods is None or key[1] in methods) for key in self.means)

    def methods(self, measures: Iterable[str], first: Sequence[str]) -> list[str]:
        """`first` in its order, then the others that have a figure of these measures, by name."""
        measures = set(measures)
        return [*first, *sorted({key[1] for key in self.means if key[2] in measures} - set(first))]

    def lines(self, measures: Iterable[str], methods: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Figures of these measures and methods (none: of all) in full precision, for the CSV."""
        measures, methods = set(measures), set(methods)
        return [
            {
                "source": self.source,
                "llm": self.llm or None,
                "protocol": self.protocol or None,
                "dataset": mean.dataset,
                "method": mean.method,
                "measure": mean.measure,
                "value": int(mean.value) if mean.value.is_integer() else mean.value,
                "half_width": mean.half_width,
                "seeds": mean.seeds if self.source == "ours" else None,
                "record": mean.record,
            }
            for mean in self.means.values()
            if mean.measure in measures and (not methods or mean.method in methods)
        ]


def of_paper(figures: DataFrame, layout: Layout) -> list[Study]:
    """One study a language model of the paper, in its order."""
    own = figures[(figures.source == "paper") & figures.kind.isin(["quality", "cost", "tuned"])]
    studies = []
    for llm in layout.llms:
        rows = own[own.llm == llm]
        columns = (rows[name] for name in ("dataset", "method", "measure", "value", "record"))
        means = [
            Mean("paper", dataset, method, measure, value, record=record)
            for dataset, method, measure, value, record in zip(*columns, strict=True)
        ]
        records = {mean.record: printed(mean.record, layout) for mean in means}
        studies.append(Study("paper", llm, "", _by_key(means), layout.datasets, (), records))
    return studies


def printed(record: str, layout: Layout) -> dict[str, Any]:
    """The provenance of a published figure."""
    table = record.removeprefix("paper:table")
    return {"source": layout.source, "table": table, "typed into": "results/paper"}


def of_records(groups: Iterable[RunGroup], layout: Layout) -> list[Study]:
    """One study a protocol and language model of the groups of runs.

    The protocol `paper` and the paper's language models come first, then the others by name.
    Of a method's configurations on a dataset one stands for it: one tuned by search, else one with the
    paper's values, else one with the fewest settings of its own; of several the best by validation Recall@10.
    The notes say which, and what was left out.
    """
    tables: dict[tuple[str, str], dict[str, list[RunGroup]]] = {}
    for group in groups:
        if group.key.llm is not None:
            family = tables.setdefault((group.key.llm, group.key.protocol), {})
            run = group.rows[0].runs[0]
            key = dataset_key(run.dataset, run.data.get("fingerprint") or {}, layout)
            family.setdefault(key, []).append(group)
    known = list(layout.llms)

    def place(key: tuple[str, str]) -> tuple[Any, ...]:
        llm, protocol = key
        number = known.index(llm) if llm in known else len(known)
        return protocol not in PROTOCOLS_FIRST, protocol, number, llm

    return [
        _study(llm, protocol, tables[llm, protocol], layout) for llm, protocol in sorted(tables, key=place)
    ]


def dataset_key(own: str, counts: Mapping[str, Any], layout: Layout) -> str:
    """The paper's name of our dataset `own` where the counts are the paper's, else `own`."""
    return dataset_of(counts) or (f"{own} (not the paper's counts)" if own in layout.datasets else own)


def ordered(datasets: Iterable[str], layout: Layout) -> list[str]:
    """Those of the paper in its order, then the others by name."""
    datasets = set(datasets)
    return [name for name in layout.datasets if name in datasets] + sorted(datasets - set(layout.datasets))


def dataset_label(dataset: str, own: str, layout: Layout) -> str:
    """A dataset as tables print it, with our name of it, `own`, where that is another."""
    name = layout.datasets.get(dataset, dataset)
    return f"{name} ({own})" if dataset in layout.datasets and own not in (dataset, name) else name


def _study(llm: str, protocol: str, tables: Mapping[str, list[RunGroup]], layout: Layout) -> Study:
    labels, notes, records = {}, [], {}
    hardware: dict[str, list[str]] = {}
    chosen: dict[tuple[str, str], RunRow] = {}
    for dataset in ordered(tables, layout):
        group, others = _fullest(tables[dataset], layout)
        label = labels[dataset] = dataset_label(dataset, group.key.dataset, layout)
        hardware.setdefault(group.hardware, []).append(label)
        if group.missed:
            notes.append(f"{label}: {group.missed}.")
        if others:
            apart = "; ".join(", ".join(other.differs) or other.hardware for other in others)
            notes.append(
                f"{label}: {len(others)} table(s) of other settings or hardware are left out: {apart}."
            )
        for method, rows in _by_method(group).items():
            row = rows[0]
            if not row.ok:
                notes.append(f"{row.label} on {label}: {row.status}.")
                continue
            chosen[dataset, method] = row
            if len(rows) > 1 or bare(row.label) != method:
                left = f"; not shown: {'; '.join(other.label for other in rows[1:])}" if rows[1:] else ""
                notes.append(f"{method} on {label} is the configuration {row.label}{left}.")
            records[row.finished[0].configuration] = configuration(row.finished)
    on = "; ".join(f"{', '.join(names)}: {where}" for where, names in hardware.items())
    notes += _mark_older(labels, chosen)
    means = _by_key(_means(chosen))
    return Study("ours", llm, protocol, means, labels, (f"On {on}.", *notes), records)


def _by_key(means: Iterable[Mean]) -> dict[tuple[str, str, str], Mean]:
    return {(mean.dataset, mean.method, mean.measure): mean for mean in means}


def _mark_older(labels: dict[str, str], chosen: Mapping[tuple[str, str], RunRow]) -> list[str]:
    """Mark the datasets of which a figure is of an older generation than the newest of all; the notes that
    say which figures."""
    runs = [run for row in chosen.values() for run in row.ok]
    notes = note(run.generation for run in runs)
    for dataset, label in list(labels.items()):
        older = [
            method
            for (other, method), row in chosen.items()
            if other == dataset and oldest(row.ok, 0) < newest(runs)
        ]
        if older:
            labels[dataset] = mark(label, True)
            notes.append(f"{label}: figures of an older generation: {', '.join(older)}")
    return [f"{line}." for line in notes]


def _fullest(tables: Sequence[RunGroup], layout: Layout) -> tuple[RunGroup, list[RunGroup]]:
    """The group with most of the paper's methods, then most rows, then the first; and the others."""

    def size(group: RunGroup) -> tuple[int, int]:
        finished = {row.runs[0].method for row in group.rows if row.ok}
        return len(finished & set(layout.methods)), len(group.rows)

    best = max(tables, key=size)
    return best, [group for group in tables if group is not best]


def _by_method(group: RunGroup) -> dict[str, list[RunRow]]:
    """Method -> its rows, the one that stands for it first."""
    by_method: dict[str, list[RunRow]] = {}
    for row in group.rows:
        by_method.setdefault(row.runs[0].method, []).append(row)

    def place(row: RunRow) -> tuple[bool, int, int, float]:
        own = [pair for pair in row.runs[0].overrides if pair not in group.shared]
        valid = row.mean("recall@10", "valid")
        tuned = TUNED.index(row.tuning.mode) if row.tuning else len(TUNED)
        return not row.ok, tuned, len(own), -(valid.mean if valid else 0.0)

    return {method: sorted(rows, key=place) for method, rows in by_method.items()}


def _means(chosen: Mapping[tuple[str, str], RunRow]) -> list[Mean]:
    """The means of the rows that stand for (dataset, method)."""
    splits = {"": "test", MASKED: "test_masked"}
    order = [(form + metric, metric, split) for metric in METRICS for form, split in splits.items()]
    order += [(name, name, "") for name in TIMES] + [(name, name, "train") for name in MEMORIES]
    means = []
    for (dataset, method), row in chosen.items():
        tuned = [(name, name, split) for name, split in row.means if split == "tuned"]
        for name, own_name, split in (*order, *tuned):
            mean = row.mean(own_name, split)
            if mean is None or (name in MEMORIES and mean.n < len(row.ok)):
                continue  # memory that was not measured in every run
            if name == "host_memory_gb" and (gpu := row.mean("gpu_memory_gb", "train")) and gpu.n == mean.n:
                continue
            if name in MEMORIES or split == "tuned":  # the largest of the seeds, or the same in all
                mean = SeedMean(mean.largest, None, 1, mean.largest, mean.largest)
            record = row.finished[0].configuration
            means.append(Mean("ours", dataset, method, name, mean.mean, mean.half_width, mean.n, record))
    return means


def counts_of(source: Literal["paper", "ours"], figures: DataFrame, layout: Layout) -> Study:
    """The counts of the datasets of a source: a study without language model, whose method is empty."""
    counts = figures[(figures.source == source) & (figures.kind == "count")]
    means, labels = [], {}
    for _, rows in counts.groupby(["dataset", "record"], sort=False):
        own, values = str(rows.dataset.iloc[0]), dict(zip(rows.measure, rows.value, strict=True))
        dataset = dataset_key(own, values, layout)
        if dataset not in labels and values.keys() >= set(COUNTS):
            labels[dataset] = dataset_label(dataset, own, layout)
            record = STATISTICS if source == "paper" else ""
            means += [Mean(source, dataset, "", name, value, record=record) for name, value in values.items()]
    datasets = {dataset: labels[dataset] for dataset in ordered(labels, layout)}
    records = {STATISTICS: printed(STATISTICS, layout)} if source == "paper" else {}
    return Study(source, "", "", _by_key(means), datasets, (), records)
