"""The figures of the paper's tables, selected from the long table: what it prints, and what our runs gave.

A `Study` holds those of one source under one language model and, of ours, one protocol. Studies of both
sources have one form, so that a table is one function of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark.report.section import configuration
from benchmark.results.groups import RunGroup, RunRow, bare, mark, newest, note, oldest
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS, dataset_of, published
from benchmark.results.schema import METRICS
from benchmark.results.statistics import SeedMean

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    Pairs = tuple[Series[float], Series[float]]

MASKED = "masked "
"""Before a metric: the user's history is left out of the ranking."""
TIMES = {"epoch_seconds": "wall seconds", "epoch_cpu_seconds": "CPU seconds"}
MEMORIES = {"gpu_memory_gb": "GPU memory in GB", "host_memory_gb": "host memory in GB"}
LABELS = {**{name: measure(name).label for name in METRICS}, **TIMES, **MEMORIES}
"""Measures as tables print them."""
STATISTICS = "paper:table1"
TUNED = ("search", "grid", "paper", "given")
"""Ways of tuning, the one that stands for a method first."""
COLUMNS = ["dataset", "method", "measure", "value", "record"]
"""Of the long table, what a published figure needs."""
Key = tuple[str, str, str]
"""Dataset, method and measure; datasets have the paper's names where their counts are its."""


class StudyMean(NamedTuple):
    """A published figure, or the mean over the seeds of one configuration."""

    source: Literal["paper", "ours"]
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
    means: Mapping[Key, StudyMean]
    datasets: Mapping[str, str]
    """The datasets in order -> their names in a table."""
    notes: tuple[str, ...] = ()
    records: Mapping[str, Any] = field(default_factory=dict)
    """For `Section.records`."""

    @property
    def llm_label(self) -> str:
        """The language model as the paper prints it, else as given."""
        return published().layout.llms.get(self.llm, self.llm) if self.source == "paper" else self.llm

    def label(self, method: str) -> str:
        """A method of the paper as it prints it; ours by its own name, because its settings are not the
        paper's."""
        return published().layout.methods.get(method, method) if self.source == "paper" else method

    def has(self, measures: Iterable[str], methods: Iterable[str] | None = None) -> bool:
        """Whether there is any figure of these measures and methods."""
        measures, methods = set(measures), None if methods is None else set(methods)
        return any(key[2] in measures and (methods is None or key[1] in methods) for key in self.means)

    def methods(self, measures: Iterable[str], first: Sequence[str]) -> list[str]:
        """`first` in its order, then the others that have a figure of these measures, by name."""
        measures = set(measures)
        return [*first, *sorted({key[1] for key in self.means if key[2] in measures} - set(first))]

    def columns(self, measures: Iterable[str], first: Sequence[str]) -> list[str]:
        """The same without the other methods that the paper has too."""
        others = self.methods(measures, first)[len(first) :]
        return [*first, *(name for name in others if name not in published().layout.methods)]

    def pairs(self, baseline: str, name: str, datasets: Iterable[str] = ()) -> Pairs:
        """A measure of the proposed method and of a baseline on every dataset, or on those of `datasets`, on
        which both are known."""
        import pandas as pd

        index = [*(datasets or self.datasets)]
        of_both = [
            [mean.value if (mean := self.means.get((dataset, method, name))) else None for dataset in index]
            for method in (published().layout.subject, baseline)
        ]
        both = pd.DataFrame(dict(enumerate(of_both)), index=index, dtype=float)
        both = both[(both > 0).all(axis=1)]
        return both[0], both[1]

    def lines(self, measures: Iterable[str], methods: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Figures of these measures and methods (none: of all) in full precision, for the CSV."""
        measures, methods = set(measures), set(methods)
        return [
            {
                "source": self.source,
                "llm": self.llm or None,
                "protocol": self.protocol or None,
                "dataset": dataset,
                "method": method,
                "measure": name,
                "value": int(mean.value) if mean.value.is_integer() else mean.value,
                "half_width": mean.half_width,
                "seeds": mean.seeds if self.source == "ours" else None,
                "record": mean.record,
            }
            for (dataset, method, name), mean in self.means.items()
            if name in measures and (not methods or method in methods)
        ]


def of_paper(figures: DataFrame) -> list[Study]:
    """One study a language model of the paper, in its order."""
    layout = published().layout
    own = figures[(figures.source == "paper") & figures.kind.isin(["quality", "cost", "tuned"])]
    studies = []
    for llm in layout.llms:
        rows = own[own.llm == llm]
        means = {
            (dataset, method, name): StudyMean("paper", value, record=table)
            for dataset, method, name, value, table in rows[COLUMNS].itertuples(index=False)
        }
        records = {table: printed(table) for table in rows.record}
        studies.append(Study("paper", llm, "", means, layout.datasets, (), records))
    return studies


def printed(record: str) -> dict[str, Any]:
    """The provenance of a published figure."""
    table = record.removeprefix("paper:table")
    return {"source": published().layout.source, "table": table, "typed into": "results/paper"}


def of_records(groups: Iterable[RunGroup]) -> list[Study]:
    """One study a protocol and language model of the groups of runs.

    The protocol `paper` and the paper's language models come first, then the others by name.
    Of a method's configurations on a dataset one stands for it: one tuned by search, else one with the
    paper's values, else one with the fewest settings of its own; of several the best by validation Recall@10.
    The notes say which, and what was left out.
    """
    tables: dict[tuple[str, str], dict[str, list[RunGroup]]] = {}
    for group in groups:
        if group.key.llm is not None:
            family = tables.setdefault((group.key.protocol, group.key.llm), {})
            run = group.rows[0].runs[0]
            family.setdefault(dataset_key(run.dataset, run.data.get("fingerprint") or {}), []).append(group)
    known = list(published().layout.llms)

    def place(key: tuple[str, str]) -> tuple[Any, ...]:
        protocol, llm = key
        return protocol != "paper", protocol, known.index(llm) if llm in known else len(known), llm

    return [_study(*key, tables[key]) for key in sorted(tables, key=place)]


def dataset_key(own: str, counts: Mapping[str, Any]) -> str:
    """The paper's name of our dataset `own` where the counts are the paper's, else `own`."""
    known = published().layout.datasets
    return dataset_of(counts) or (f"{own} (not the paper's counts)" if own in known else own)


def ordered(datasets: Iterable[str]) -> list[str]:
    """Those of the paper in its order, then the others by name."""
    known = [*published().layout.datasets]
    return sorted(datasets, key=lambda name: (known.index(name) if name in known else len(known), name))


def dataset_label(dataset: str, own: str) -> str:
    """A dataset as tables print it, with our name of it, `own`, where that is another."""
    known = published().layout.datasets
    name = known.get(dataset, dataset)
    return f"{name} ({own})" if dataset in known and own not in (dataset, name) else name


def _study(protocol: str, llm: str, tables: Mapping[str, list[RunGroup]]) -> Study:
    labels: dict[str, str] = {}
    notes: list[str] = []
    records = {}
    hardware: dict[str, list[str]] = {}
    chosen: dict[tuple[str, str], RunRow] = {}
    for dataset in ordered(tables):
        group = max(tables[dataset], key=_size)
        label = labels[dataset] = dataset_label(dataset, group.key.dataset)
        hardware.setdefault(group.hardware, []).append(label)
        notes += [f"{label}: {group.missed}."] if group.missed else []
        if others := [other for other in tables[dataset] if other is not group]:
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
            records[row.configuration] = configuration(row.finished)
    on = "; ".join(f"{', '.join(names)}: {where}" for where, names in hardware.items())
    notes += _mark_older(labels, chosen)
    seeds = {f"{method} on {labels[data]}": len(row.ok) for (data, method), row in chosen.items()}
    notes += [_seeds_note(seeds)] if seeds else []
    means = {(*place, name): mean for place, row in chosen.items() for name, mean in _means(row)}
    return Study("ours", llm, protocol, means, labels, (f"On {on}.", *notes), records)


def _seeds_note(seeds: Mapping[str, int]) -> str:
    """The number of seeds of each figure of ours; `seeds` maps the name of a row to it."""
    least, most = min(seeds.values()), max(seeds.values())
    several = [f"{name} {count}" for name, count in seeds.items() if count > least]
    return f"Seeds of each figure: n = {least}{', but ' if most > least else ''}{', '.join(several)}."


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


def _size(group: RunGroup) -> tuple[int, int]:
    """How many of the paper's methods a group has, and how many rows."""
    finished = {row.runs[0].method for row in group.rows if row.ok}
    return len(finished & published().layout.methods.keys()), len(group.rows)


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


def _means(row: RunRow) -> Iterable[tuple[str, StudyMean]]:
    """The measures of the paper's tables in a row of ours."""
    order = [
        (form + metric, metric, f"test{'_masked' if form else ''}")
        for metric in METRICS
        for form in ("", MASKED)
    ]
    order += [(name, name, "") for name in TIMES] + [(name, name, "train") for name in MEMORIES]
    order += [(name, name, split) for name, split in row.means if split == "tuned"]
    for name, own_name, split in order:
        mean = row.mean(own_name, split)
        if mean is None or (name in MEMORIES and mean.n < len(row.ok)):
            continue  # memory that was not measured in every run
        if name == "host_memory_gb" and (gpu := row.mean("gpu_memory_gb", "train")) and gpu.n == mean.n:
            continue
        if name in MEMORIES or split == "tuned":  # the largest of the seeds, or the same in all
            mean = SeedMean(mean.largest, None, 1, mean.largest, mean.largest)
        yield name, StudyMean("ours", mean.mean, mean.half_width, mean.n, row.configuration)


def counts_of(source: Literal["paper", "ours"], figures: DataFrame) -> Study:
    """The counts of the datasets of a source: a study without language model, whose method is empty."""
    counts = figures[(figures.source == source) & (figures.kind == "count")]
    record, records = (STATISTICS, {STATISTICS: printed(STATISTICS)}) if source == "paper" else ("", {})
    means: dict[Key, StudyMean] = {}
    labels: dict[str, str] = {}
    for _, rows in counts.groupby(["dataset", "record"], sort=False):
        own, values = str(rows.dataset.iloc[0]), dict(zip(rows.measure, rows.value, strict=True))
        dataset = dataset_key(own, values)
        if dataset not in labels and values.keys() >= set(COUNTS):
            labels[dataset] = dataset_label(dataset, own)
            means |= {(dataset, "", name): StudyMean(source, values[name], record=record) for name in values}
    return Study(
        source, "", "", means, {dataset: labels[dataset] for dataset in ordered(labels)}, (), records
    )
