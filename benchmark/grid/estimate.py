"""What a plan will cost, before anything of it runs: from records where there are some, else from a probe.

All times are ranges (least, most) in seconds. What makes them wide is the number of epochs, which nobody
knows before: early stopping decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmark.config import Settings
from benchmark.grid.local import visible_gpus
from benchmark.grid.plan import GridPlan, Search, by_configuration
from benchmark.grid.progress import Range
from benchmark.results.record import PeakMemory, RunRecord
from benchmark.results.store import finished, iter_runs
from benchmark.run.spec import ResolvedRun
from benchmark.speed.record import ENDINGS, Variant
from benchmark.train.checkpoint import Checkpoint

START = 15.0
"""Seconds in which a process starts and builds its model, where no probe measured it."""
UNTRAINED: Range = (0.0, 60.0)
"""Seconds in which a control scores all users, where no record has them."""
SPREAD = 2.0
"""Runs of the same method and protocol on other data or with other values take up to so many times more
epochs, or fewer."""
State = str
"""`finished`, `to resume` or `to do`."""
STATES = ("finished", "to resume", "to do")
Probe = Callable[[ResolvedRun], tuple[Variant, float]]
"""-> the figures of a few steps, and the seconds of starting and building."""


@dataclass(frozen=True)
class CostFigures:
    """What a configuration costs, whatever its seed."""

    source: str
    """`probe`, `records`, or how the probe failed."""
    epoch: Range = (0.0, 0.0)
    """Training seconds."""
    evaluation: Range = (0.0, 0.0)
    """Seconds of a validation pass; the test takes as long."""
    start: float = START
    host: int | None = None
    """Peak resident bytes of a process."""
    gpu: int | None = None
    """Peak bytes of GPU memory that torch reserved in a process."""
    failed: str | None = None
    """Why it cannot run, where the probe could not."""

    def seconds(self, epochs: Range, done: int = 0) -> Range:
        """Of a whole run of so many epochs, `done` of which are over."""
        first, second = (
            self.start
            + max(0.0, count - done) * (self.epoch[edge] + self.evaluation[edge])
            + 2 * self.evaluation[edge]
            for edge, count in enumerate(epochs)
        )
        return first, second


@dataclass
class CostRow:
    """The runs of a plan that differ only in their seeds."""

    run: ResolvedRun
    """With the first seed."""
    states: dict[ResolvedRun, State]
    epochs: Range
    figures: CostFigures
    seconds: Range = (0.0, 0.0)
    """Of all that is not finished."""

    def count(self, state: State) -> int:
        """How many runs are in `state`."""
        return list(self.states.values()).count(state)

    @property
    def left(self) -> list[ResolvedRun]:
        """Runs that are not finished."""
        return [run for run, state in self.states.items() if state != "finished"]


@dataclass
class CostEstimate:
    """What a plan will cost."""

    rows: list[CostRow]
    then: list[tuple[Search, Range]] = field(default_factory=list)
    """What follows from searches, and its seconds."""

    @property
    def seconds(self) -> Range:
        """Of all runs, one after another."""
        spans = [*(row.seconds for row in self.rows), *(span for _, span in self.then)]
        return sum(low for low, _ in spans), sum(high for _, high in spans)

    def count(self, state: State) -> int:
        """How many runs are in `state`."""
        return sum(row.count(state) for row in self.rows)

    def peak(self, kind: str) -> int | None:
        """The largest `host` or `gpu` figure of a process."""
        sizes = [getattr(row.figures, kind) for row in self.rows if row.left]
        return max((size for size in sizes if size is not None), default=None)

    @property
    def failures(self) -> list[CostRow]:
        """Configurations that the probe could not run."""
        return [row for row in self.rows if row.left and row.figures.failed]


def estimate(plan: GridPlan, results: Path, fresh: bool, probe: Probe) -> CostEstimate:
    """What `plan` will cost with the store `results`; `probe` measures what no record has."""
    records = [run.record for run in iter_runs(results)] if results.exists() else []
    records = [record for record in records if record.status == "ok" and (record.curve or record.untrained)]
    groups = by_configuration(plan.known_runs)
    # trials of a search in the shared space cost about the same: the first is probed for all
    stands_for = {
        trial: search.trials[0] for search in plan.searches if search.space for trial in search.trials
    }
    probe_once = cache(probe)
    rows = [
        _row(seeds, results, fresh, records, lambda run: probe_once(stands_for.get(run, run)))
        for seeds in groups
    ]
    by_run = {run: row for row in rows for run in row.states}
    return CostEstimate(
        rows, [(search, _follows(search, by_run)) for search in plan.searches if search.later]
    )


def _row(
    seeds: Sequence[ResolvedRun], results: Path, fresh: bool, records: Sequence[RunRecord], probe: Probe
) -> CostRow:
    states: dict[ResolvedRun, State] = {}
    done: dict[ResolvedRun, int] = {}
    for run in seeds:
        path = run.record_path(results)
        checkpoint = Checkpoint(path.with_suffix(".checkpoint"), run.identity)
        done[run] = 0 if fresh else checkpoint.epochs_done()
        over = not fresh and finished(path, run.code) is not None
        states[run] = "finished" if over else "to resume" if done[run] else "to do"
    first = seeds[0]
    own = [record for record in records if record.config_hash == first.config_hash]
    method = (first.spec.method, first.spec.protocol)
    similar = [record for record in records if (record.method, record.protocol) == method]
    epochs = (0.0, 0.0) if first.control else epoch_range(first.settings, own, similar)
    device = "cuda" if visible_gpus() else "cpu"
    here = [record for record in own if record.environment.device == device]
    known = of_control(own) if first.control else from_records(here) if here else None
    figures = known or from_probe(*probe(first))
    spans = [figures.seconds(epochs, done[run]) for run, state in states.items() if state != "finished"]
    seconds = sum(low for low, _ in spans), sum(high for _, high in spans)
    return CostRow(first, states, epochs, figures, seconds)


def epoch_range(settings: Settings, own: Sequence[RunRecord], other: Sequence[RunRecord]) -> Range:
    """Epochs of a run: by its own configuration's other seeds, by other runs of its method and protocol, or
    all that its settings allow."""
    least = min(settings.epochs, settings.patience + 1 if settings.patience else settings.epochs)
    known, spread = (own, SPREAD**0.5) if own else (other, SPREAD)
    if not known:
        return least, settings.epochs
    counts = [record.epochs_run for record in known]
    low, high = min(counts) / spread, max(counts) * spread
    return (
        min(settings.epochs, max(least, round(low))),
        min(settings.epochs, max(least, round(high))),
    )


def from_records(records: Sequence[RunRecord]) -> CostFigures:
    """CostFigures of finished runs of the same configuration."""
    rows = [row for record in records for row in record.curve]
    return CostFigures(
        "records",
        _edges(row.train_seconds for row in rows),
        _edges(row.eval_seconds + row.save_seconds for row in rows),
        START,
        *_peaks([peaks for record in records for peaks in record.cost.peak_memory.values()]),
    )


def of_control(records: Sequence[RunRecord]) -> CostFigures:
    """CostFigures of a control, which has no epochs: from its record, else a rough range."""
    passes = [record.cost.eval_seconds or 0.0 for record in records]
    searched = [record.tuning.train_seconds for record in records if record.tuning]
    if not passes:
        return CostFigures("not measured", evaluation=UNTRAINED)
    peaks = _peaks([peaks for record in records for peaks in record.cost.peak_memory.values()])
    return CostFigures("records", (0.0, 0.0), _edges(passes), START + max(searched, default=0.0), *peaks)


def from_probe(variant: Variant, start: float) -> CostFigures:
    """CostFigures of a few steps and one validation pass."""
    if variant.status != "ok":
        why = f"{ENDINGS[variant.status]}: {variant.error}"
        return CostFigures(ENDINGS[variant.status], failed=why)
    epochs = variant.epochs.seconds
    return CostFigures(
        "probe",
        _edges(epochs[1:] or epochs),  # the first one is a warm-up where there are more
        _edges(variant.evaluation.seconds),
        start,
        *_peaks(list(variant.peak_memory.values())),
    )


def _edges(values: Iterable[float]) -> Range:
    """The range of scattered figures, without the outermost tenth on either side."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return ordered[cut], ordered[-1 - cut]


def _peaks(phases: Sequence[PeakMemory]) -> tuple[int | None, int | None]:
    """The largest (host, GPU) peak of several phases."""
    host = [peak.host for peak in phases if peak.host is not None]
    gpu = [peak.reserved for peak in phases if peak.reserved is not None]
    return max(host, default=None), max(gpu, default=None)


def _follows(search: Search, rows: dict[ResolvedRun, CostRow]) -> Range:
    """Seconds of the trials to come, and of the configuration that a search chooses, which may be any."""
    spans = []
    for trial in search.trials:
        row = rows[trial]
        spans.append(row.figures.seconds(row.epochs))
    return search.later * min(low for low, _ in spans), search.later * max(high for _, high in spans)
