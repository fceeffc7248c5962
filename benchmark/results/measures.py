"""Every column of a table of runs, once: its name, label, unit, format, direction, note and how it is read.

Tables, CSV files and plots read this registry. Rank metrics are `quality` of any split; what a run cost
stands in COSTS, what a search cost in SEARCH.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmark.results.comparable import RunGroup, RunRow
from benchmark.results.metrics import measure
from benchmark.results.record import RunRecord
from benchmark.results.statistics import SeedMean

Direction = Literal["higher", "lower", ""]
ALIKE = 1.05
"""Numbers of candidates up to this factor apart count as one: masking false negatives takes a few away."""
NO_FIGURE = "n/a"


def share(value: float) -> str:
    """A metric in [0, 1] to four digits, without the zero before the point."""
    return f"{value:.4f}".removeprefix("0")


def gibibytes(value: float) -> str:
    """Bytes as GiB."""
    return f"{value / 2**30:.2f}"


def count(value: float) -> str:
    """A mean number of things, or a sum of seconds, to about three digits where it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_interval(figure: SeedMean, show: Callable[[float], str]) -> str:
    """`mean ± half-width`, or the plain figure of one seed."""
    return show(figure.mean) + (f" ± {show(figure.half_width)}" if figure.half_width is not None else "")


def seconds(figure: SeedMean) -> str:
    """Seconds to about three digits, and the half-width to as many decimals."""
    decimals = next((places for limit, places in ((0.1, 4), (10, 2), (100, 1)) if figure.mean < limit), 0)
    return with_interval(figure, lambda value: f"{value:,.{decimals}f}")


@dataclass(frozen=True)
class TableColumn:
    """One measure of the rows of a table."""

    name: str
    """Head in CSV files."""
    label: str
    """Head in printed tables."""
    read: Callable[[RunRow], SeedMean | None]
    """The figure over the finished seeds of a row; None where nothing was measured."""
    show: Callable[[SeedMean], str] = lambda figure: count(figure.mean)
    """The figure as printed, in the unit that the label names."""
    unit: str = ""
    """Unit of the value that `read` gives; empty for a count or a share."""
    direction: Direction = ""
    """Which values are better; a table marks the best ones by it."""
    note: str = ""
    """What a reader must know of it, without a full stop."""
    print_row: Callable[[RunRow], str] | None = None
    """The printed cell, where it needs more than this figure."""

    def cell(self, row: RunRow) -> str:
        """The printed figure of a row that finished."""
        if self.print_row:
            return self.print_row(row)
        figure = self.read(row)
        return self.show(figure) if figure else NO_FIGURE


def quality(split: str, metric: str) -> TableColumn:
    """A rank metric of a split, such as `test` or `test_masked`."""
    return TableColumn(
        f"{split}_{metric}",
        measure(metric).label,
        lambda row: row.quality(split, metric),
        lambda figure: with_interval(figure, share),
        direction="higher",
    )


def peak_memory(row: RunRow) -> tuple[float, str] | None:
    """Peak in training over the seeds, in bytes, and its kind: `GPU` (allocated) or else `host` (RSS)."""
    for kind, name in (("GPU", "allocated"), ("host", "host")):
        figure = row.figure(lambda run, name=name: getattr(run.cost.peak_memory.get("train"), name, None))  # type: ignore[misc]
        if figure is not None and figure.n == len(row.ok):
            return figure.largest, kind
    return None


def _memory_figure(row: RunRow) -> SeedMean | None:
    found = peak_memory(row)
    return SeedMean(found[0], None, len(row.ok), found[0]) if found else None


def _memory_cell(row: RunRow) -> str:
    found = peak_memory(row)
    return f"{gibibytes(found[0])} {found[1]}" if found else NO_FIGURE


def _epochs_cell(row: RunRow) -> str:
    best, last = (COSTS[name].read(row) for name in ("best_epoch", "epochs_run"))
    return f"{best.mean:g} / {last.mean:g}" if best and last else NO_FIGURE


def _cost(name: str, read: Callable[[RunRecord], float | None], label: str = "", **more: Any) -> TableColumn:
    return TableColumn(name, label or name, lambda row: row.figure(read), **more)


def _recall(splits: Mapping[str, Mapping[str, float]]) -> float | None:
    return splits.get("valid", {}).get("recall@10")


COSTS = {
    column.name: column
    for column in (
        _cost(
            "epoch_seconds", lambda run: run.cost.epoch_seconds, "s/epoch", show=seconds, unit="s",
            direction="lower", note="median training seconds, without evaluation and the first epoch",
        ),
        _cost(
            "epoch_cpu_seconds", lambda run: run.cost.epoch_cpu_seconds, "CPU s/epoch", show=seconds,
            unit="s", direction="lower",
        ),
        _cost(
            "prepare_seconds", lambda run: run.cost.prepare_seconds, "prep. s", unit="s", direction="lower",
            show=lambda figure: seconds(replace(figure, half_width=None)),
            note="seconds in which the frozen language model, or its frozen lower layers, run once",
        ),
        _cost("train_seconds", lambda run: run.cost.train_seconds, unit="s", direction="lower"),
        _cost("best_epoch", lambda run: run.best_epoch, "best / epochs", print_row=_epochs_cell),
        _cost("epochs_run", lambda run: run.epochs_run),
        _cost(
            "trainable_parameters", lambda run: run.cost.trainable_parameters, "trainable", direction="lower",
            show=lambda figure: f"{figure.largest:,.0f}",
        ),
        _cost("trials", lambda run: run.trials),
        _cost(
            "candidates", lambda run: run.cost.candidates, "cand.",
            note="mean number of candidates of a prediction in the training loss, its positive included",
        ),
        _cost("encodings_per_epoch", lambda run: run.cost.encodings_per_epoch, direction="lower"),
        _cost("chunk_tokens", lambda run: run.cost.chunk_tokens),
        _cost("chunk_halvings", lambda run: run.cost.chunk_halvings, direction="lower"),
        _cost("ranks_moved", lambda run: run.liveness.ranks_moved if run.liveness else None),
        _cost("valid_recall@10", lambda run: _recall(run.metrics), direction="higher"),
        _cost("initial_valid_recall@10", lambda run: _recall(run.initial), direction="higher"),
        TableColumn(
            "peak_memory_bytes", "peak GiB", _memory_figure, unit="bytes", direction="lower",
            note="in training, GPU (allocated by torch) or else host (resident)", print_row=_memory_cell,
        ),
    )
}  # fmt: skip
"""Name -> column, in the order of CSV files."""
PRINTED = (
    "candidates", "epoch_seconds", "epoch_cpu_seconds", "best_epoch", "prepare_seconds", "peak_memory_bytes",
    "trainable_parameters",
)  # fmt: skip
"""Those of COSTS that printed tables show, in order."""


def _search(name: str, label: str, value: str) -> TableColumn:
    def read(row: RunRow) -> SeedMean | None:
        if row.tuning is None or not row.tuning.trials:
            return None
        total = float(getattr(row.tuning, value))
        return SeedMean(total, None, 1, total)

    return TableColumn(name, label, read, seconds, "s", "lower", "training of all trials, without evaluation")


def _trials(row: RunRow) -> SeedMean:
    number = float(max(1, len(row.tuning.trials)) if row.tuning else 1)
    return SeedMean(number, None, 1, number)


SEARCH = (
    TableColumn("trials", "trials", _trials, lambda figure: f"{figure.mean:.0f}"),
    _search("search_train_seconds", "search s", "train_seconds"),
    _search("search_train_cpu_seconds", "search CPU s", "train_cpu_seconds"),
)
"""What the search of a tuned row cost."""


def unlike_candidates(group: RunGroup) -> dict[str, list[str]]:
    """Number of softmax candidates -> the rows trained with so many; empty where it is the same for all."""
    figures = [(COSTS["candidates"].read(row), row.label) for row in group.rows]
    sizes = [(figure.mean, label) for figure, label in figures if figure]
    if not sizes or max(sizes)[0] <= ALIKE * min(sizes)[0]:
        return {}
    labels: dict[str, list[str]] = {}
    for size, label in sorted(sizes):
        labels.setdefault(count(size), []).append(label)
    return labels
