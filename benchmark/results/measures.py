"""Every measure of a run, once: name, label, unit, format, direction, note, and how a record gives it.

The long table reads the records by this registry; tables, CSV files and plots print by it. Rank metrics are
`quality` of any split; what a run cost stands in MEASURES, what a search cost in SEARCH.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmark.results.groups import RunGroup, RunRow
from benchmark.results.list_metrics import ListMeasure
from benchmark.results.metrics import any_measure
from benchmark.results.record import RunRecord
from benchmark.results.statistics import SeedMean, estimate

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


def several(number: int, thing: str) -> str:
    """A number and what it counts, in the plural unless it is 1."""
    if number == 1:
        return f"1 {thing}"
    if thing.endswith("ry"):
        return f"{number:,} {thing[:-1]}ies"
    return f"{number:,} {thing}{'es' if thing.endswith('tch') else 's'}"


def with_interval(figure: SeedMean, show: Callable[[float], str]) -> str:
    """`mean ± half-width`, or the plain figure of one seed."""
    return show(figure.mean) + (f" ± {show(figure.half_width)}" if figure.half_width is not None else "")


def seconds(figure: SeedMean) -> str:
    """Seconds to about three digits, and the half-width to as many decimals."""
    decimals = next((places for limit, places in ((0.1, 4), (10, 2), (100, 1)) if figure.mean < limit), 0)
    return with_interval(figure, lambda value: f"{value:,.{decimals}f}")


@dataclass(frozen=True)
class RunMeasure:
    """One number of a run."""

    name: str
    """As the long table names it."""
    label: str
    """Head in printed tables."""
    read: Callable[[RunRecord], float | None] = lambda run: None
    """Its value in a finished run; None where it was not measured."""
    split: str = ""
    """As in the long table; empty where it is null there."""
    show: Callable[[SeedMean], str] = lambda mean: count(mean.mean)
    """The mean over seeds as printed, in the unit that the label names."""
    unit: str = ""
    """Unit of the value; empty for a count or a share."""
    direction: Direction = ""
    """Which values are better; a table marks the best ones by it."""
    note: str = ""
    """What a reader must know of it, without a full stop."""
    of_row: Callable[[RunRow], SeedMean | None] | None = None
    """The value of a row, where it is not the mean of this measure over the seeds."""
    print_row: Callable[[RunRow], str] | None = None
    """The printed cell, where it needs more than this value."""

    @property
    def head(self) -> str:
        """Head in CSV files."""
        return f"{self.split}_{self.name}" if self.split else self.name

    def mean(self, row: RunRow) -> SeedMean | None:
        """The value of a row of a table; None where nothing was measured."""
        return self.of_row(row) if self.of_row else row.mean(self.name, self.split)

    def cell(self, row: RunRow) -> str:
        """The printed value of a row that finished."""
        if self.print_row:
            return self.print_row(row)
        mean = self.mean(row)
        return self.show(mean) if mean else NO_FIGURE


def quality(split: str, metric: str) -> RunMeasure:
    """A rank metric of a split, such as `test` or `test_masked`; of `test_masked` also a measure of lists."""
    measure = any_measure(metric)
    of_lists = measure.metric if isinstance(measure, ListMeasure) else None
    number = count if of_lists and not of_lists.is_share else share
    return RunMeasure(
        metric,
        measure.label,
        lambda run: run.metrics.get(split, {}).get(metric),
        split,
        lambda mean: with_interval(mean, number),
        direction="" if of_lists else "higher",
        note=of_lists.title if of_lists else "",
    )


def peak_memory(row: RunRow) -> tuple[float, str] | None:
    """Peak in training over the seeds, in bytes, and its kind: `GPU` (allocated) or else `host` (RSS)."""
    for kind, name in (("GPU", "gpu_memory_gb"), ("host", "host_memory_gb")):
        mean = row.mean(name, "train")
        if mean is not None and mean.n == len(row.ok):
            return float(round(mean.largest * 1e9)), kind
    return None


def _memory_mean(row: RunRow) -> SeedMean | None:
    peak = peak_memory(row)
    return SeedMean(peak[0], None, len(row.ok), peak[0], peak[0]) if peak else None


def _memory_cell(row: RunRow) -> str:
    peak = peak_memory(row)
    return f"{gibibytes(peak[0])} {peak[1]}" if peak else NO_FIGURE


def _epochs_cell(row: RunRow) -> str:
    best, last = row.mean("best_epoch"), row.mean("epochs_run")
    return f"{round(best.mean, 1):g} / {round(last.mean, 1):g}" if best and last else NO_FIGURE


def _cost(name: str, label: str = "", **more: Any) -> RunMeasure:
    """A field of `Cost`, unless `read` is given."""
    return RunMeasure(name, label or name, **{"read": lambda run: getattr(run.cost, name), **more})


def _memory(name: str, field: str, phase: str) -> RunMeasure:
    def read(run: RunRecord) -> float | None:
        number = getattr(run.cost.peak_memory.get(phase), field, None)
        return None if number is None else number / 1e9

    return RunMeasure(name, name, read, phase, unit="GB", direction="lower")


def _watt_hours(run: RunRecord) -> float | None:
    used = [epoch.train_joules for epoch in run.curve[: run.best_epoch or 0]]
    return sum(sum(joules.values()) for joules in used) / 3600 if used and all(used) else None


PRINTED = (
    _cost(
        "candidates", "cand.",
        note="mean number of candidates of a prediction in the training loss, its positive included",
    ),
    _cost(
        "epoch_seconds", "s/epoch", show=seconds, unit="s", direction="lower",
        note="median training seconds, without evaluation and the first epoch",
    ),
    _cost("epoch_cpu_seconds", "CPU s/epoch", show=seconds, unit="s", direction="lower"),
    _cost("best_epoch", "best / epochs", read=lambda run: run.best_epoch, print_row=_epochs_cell),
    _cost(
        "prepare_seconds", "prep. s", unit="s", direction="lower",
        show=lambda mean: seconds(replace(mean, half_width=None)),
        note="seconds in which the frozen language model, or its frozen lower layers, run once",
    ),
    RunMeasure(
        "peak_memory_bytes", "peak GiB", unit="bytes", direction="lower", of_row=_memory_mean,
        note="in training, GPU (allocated by torch) or else host (resident)", print_row=_memory_cell,
    ),
    _cost(
        "trainable_parameters", "trainable", direction="lower", show=lambda mean: f"{mean.largest:,.0f}"
    ),
)  # fmt: skip
"""What printed tables of runs show of cost, in order."""
MEASURES = {
    (measure.name, measure.split): measure
    for measure in (
        *PRINTED,
        _cost("first_epoch_seconds", unit="s", direction="lower"),
        _cost("eval_seconds", unit="s", direction="lower", note="median of a validation pass"),
        _cost("train_seconds", unit="s", direction="lower"),
        _cost("seconds_to_best", unit="s", note="training up to and including the best epoch"),
        _cost(
            "cpu_seconds_to_best", unit="s", note="the same in CPU seconds, over all threads and processes",
            read=lambda run: sum(epoch.train_cpu_seconds for epoch in run.curve[: run.best_epoch or 0]),
        ),
        _cost(
            "watt_hours_to_best", unit="Wh", direction="lower", read=_watt_hours,
            note="training up to and including the best epoch, of GPUs and processors as far as measured",
        ),
        _cost(
            "seconds_after_best", unit="s",
            read=lambda run: (run.cost.train_seconds or 0.0) - (run.cost.seconds_to_best or 0.0),
        ),
        _cost(
            "validation_seconds", unit="s", direction="lower", note="of all epochs",
            read=lambda run: sum(epoch.eval_seconds for epoch in run.curve),
        ),
        _cost(
            "checkpoint_seconds", unit="s", direction="lower", note="of all epochs",
            read=lambda run: sum(epoch.save_seconds for epoch in run.curve),
        ),
        _cost("predictions_per_epoch"),
        _cost("inputs_per_epoch", direction="lower"),
        _cost("steps_per_epoch"),
        _cost("encodings_per_epoch", direction="lower"),
        _cost("chunk_tokens"),
        _cost("kept_tokens"),
        _cost("encoded_again", direction="lower"),
        _cost("lower_layers"),
        _cost("chunk_halvings", direction="lower"),
        _cost("total_parameters", direction="lower"),
        _cost("epochs_run", read=lambda run: run.epochs_run),
        _cost("trials", read=lambda run: run.trials),
        _cost("search_seconds", unit="s", read=lambda run: run.tuning and run.tuning.train_seconds),
        _cost("search_cpu_seconds", unit="s", read=lambda run: run.tuning and run.tuning.train_cpu_seconds),
        _cost("ranks_moved", read=lambda run: run.liveness and run.liveness.ranks_moved),
        *(
            _memory(name, field, phase)
            for phase in ("train", "eval")
            for name, field in (
                ("gpu_memory_gb", "allocated"),
                ("gpu_memory_reserved_gb", "reserved"),
                ("gpu_memory_process_gb", "process"),
                ("host_memory_gb", "host"),
            )
        ),
    )
}  # fmt: skip
"""(name, split) -> what was measured in a run beside rank metrics."""


def _search(name: str, label: str, value: str) -> RunMeasure:
    def of_row(row: RunRow) -> SeedMean | None:
        return estimate([getattr(row.tuning, value)]) if row.tuning and row.tuning.trials else None

    note = "training of all trials, without evaluation"
    return RunMeasure(name, label, show=seconds, unit="s", direction="lower", note=note, of_row=of_row)


def _trials(row: RunRow) -> int:
    """Configurations that validation chose from; with `fuse`, also of the control and its weights."""
    mixed = row.runs[0].fusion.trials if row.runs and row.runs[0].fusion else 0
    return max(1, len(row.tuning.trials) if row.tuning else 1) + mixed


SEARCH = (
    RunMeasure(
        "trials", "trials", show=lambda mean: f"{mean.mean:.0f}",
        of_row=lambda row: estimate([_trials(row)]),
    ),
    _search("search_train_seconds", "search s", "train_seconds"),
    _search("search_train_cpu_seconds", "search CPU s", "train_cpu_seconds"),
)  # fmt: skip
"""What the search of a tuned row cost."""


def unlike_candidates(group: RunGroup) -> dict[str, list[str]]:
    """Number of softmax candidates -> the rows trained with so many; empty where it is the same for all."""
    sizes = [(mean.mean, row.label) for row in group.rows if (mean := row.mean("candidates"))]
    if not sizes or max(sizes)[0] <= ALIKE * min(sizes)[0]:
        return {}
    labels: dict[str, list[str]] = {}
    for size, label in sorted(sizes):
        labels.setdefault(count(size), []).append(label)
    return labels
