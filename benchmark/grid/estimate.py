"""What a plan will cost in time and memory.

Figures come from records where there are some, else from a probe. All times are ranges (least, most) in
seconds. What makes them wide is the number of epochs, which is not known before: early stopping decides it.
The store does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

from benchmark.config import Settings
from benchmark.grid.local import visible_gpus
from benchmark.grid.plan import GridPlan, by_configuration
from benchmark.grid.progress import Range
from benchmark.grid.search import Search
from benchmark.results.record import RunRecord
from benchmark.results.schema import PeakMemory
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
STATES = ("finished", "to resume", "to do")
"""States of a run."""
RunState = tuple[str, int]
"""One of `STATES`, and the epochs that a checkpoint has."""
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
            self.start + max(0.0, count - done) * (epoch + evaluation) + 2 * evaluation
            for count, epoch, evaluation in zip(epochs, self.epoch, self.evaluation, strict=True)
        )
        return first, second

    def about(self, epochs: float, done: int = 0) -> float:
        """Seconds in the middle of the ranges, of a run of so many epochs, `done` of which are over."""
        low, high = self.seconds((epochs, epochs), done)
        return (low + high) / 2


@dataclass(frozen=True)
class CostRow:
    """The runs of a plan that differ only in their seeds."""

    run: ResolvedRun
    """With the first seed."""
    states: dict[ResolvedRun, str]
    """Run -> one of `STATES`."""
    epochs: Range
    figures: CostFigures
    seconds: Range
    """Of all that is not finished."""
    about: float | None = None
    """What it will take with the epochs of the most similar finished runs; None where there are none."""
    usual: float = 0.0
    """Epochs of these."""

    @property
    def whole(self) -> float | None:
        """Seconds of one whole run under the same condition."""
        return self.figures.about(self.usual) if self.about is not None else None

    @property
    def left(self) -> list[ResolvedRun]:
        """Runs that are not finished."""
        return [run for run, state in self.states.items() if state != "finished"]


@dataclass(frozen=True)
class CostEstimate:
    """What a plan will cost."""

    rows: list[CostRow]
    then: list[tuple[Search, Range]]
    """What follows from searches, and its seconds."""

    @property
    def seconds(self) -> Range:
        """Of all runs, one after another."""
        return sum_ranges([*(row.seconds for row in self.rows), *(span for _, span in self.then)])

    @property
    def about(self) -> float | None:
        """The same by the most similar finished runs; None where a row has none."""
        known = [row.about for row in self.rows if row.left]
        runs = {run: row.whole for row in self.rows for run in row.states}
        for search, _ in self.then:
            trials = [runs[trial] for trial in search.trials]
            known.append(None if None in trials else search.later * sum(filter(None, trials)) / len(trials))
        return None if None in known else sum(filter(None, known))

    def count(self, state: str) -> int:
        """How many runs are in `state`."""
        return sum([*row.states.values()].count(state) for row in self.rows)


def estimate(
    plan: GridPlan, results: Path, fresh: bool, probe: Probe, keep_model: bool = False
) -> CostEstimate:
    """Compare `plan` with the store `results`; `probe` measures what no record has."""
    records = [run.record for run in iter_runs(results)] if results.exists() else []
    records = [record for record in records if record.status == "ok" and (record.curve or record.untrained)]
    # trials of a search in the shared space cost about the same: the first is probed for all
    stands_for = {
        trial: search.trials[0] for search in plan.searches if search.space for trial in search.trials
    }
    probe_once = cache(probe)

    def standing(run: ResolvedRun) -> RunState:
        path = run.record_path(results)
        if not fresh and finished(path, run.code, keep_model) is not None:
            return "finished", 0
        done = 0 if fresh else Checkpoint(path.with_suffix(".checkpoint"), run.identity).epochs_done()
        return "to resume" if done else "to do", done

    rows = [
        _row(seeds, standing, records, lambda run: probe_once(stands_for.get(run, run)))
        for seeds in by_configuration(plan.known_runs)
    ]
    whole = {run: row.figures.seconds(row.epochs) for row in rows for run in row.states}
    then = []
    for search in plan.searches:
        if search.later:  # any of the trials may be the best
            lows, highs = zip(*(whole[trial] for trial in search.trials), strict=True)
            then.append((search, (search.later * min(lows), search.later * max(highs))))
    return CostEstimate(rows, then)


def _row(
    seeds: Sequence[ResolvedRun],
    standing: Callable[[ResolvedRun], RunState],
    records: Sequence[RunRecord],
    probe: Probe,
) -> CostRow:
    found = {run: standing(run) for run in seeds}
    states = {run: state for run, (state, _) in found.items()}
    done = {run: epochs for run, (_, epochs) in found.items()}
    first = seeds[0]
    own = [record for record in records if record.config_hash == first.config_hash]
    method = (first.spec.method, first.spec.protocol)
    similar = [record for record in records if (record.method, record.protocol) == method]
    epochs = (0.0, 0.0) if first.control else epoch_range(first.settings, own, similar)
    device = "cuda" if visible_gpus() else "cpu"
    here = [record for record in own if record.environment.device == device]
    known = of_control(own) if first.control else from_records(here) if here else None
    figures = known or from_probe(*probe(first))
    left = [run for run, state in states.items() if state != "finished"]
    row = CostRow(
        first, states, epochs, figures, sum_ranges(figures.seconds(epochs, done[run]) for run in left)
    )
    data = (first.prepared.name, first.spec.protocol)
    alike = [record for record in records if (record.dataset, record.protocol) == data]
    usual = 0.0 if first.control else usual_epochs(own or similar or alike)
    if usual is None or figures.failed:
        return row
    return replace(row, about=sum(figures.about(usual, done[run]) for run in left), usual=usual)


def usual_epochs(records: Sequence[RunRecord]) -> float | None:
    """The median number of epochs of trained runs; None where there is none."""
    counts = [record.epochs_run for record in records if not record.untrained]
    return float(median(counts)) if counts else None


def epoch_range(settings: Settings, own: Sequence[RunRecord], other: Sequence[RunRecord]) -> Range:
    """Epochs of a run: by its own configuration's other seeds, by other runs of its method and protocol, or
    all that its settings allow."""
    least = min(settings.epochs, settings.patience + 1 if settings.patience else settings.epochs)
    known, spread = (own, SPREAD**0.5) if own else (other, SPREAD)
    if not known:
        return least, settings.epochs
    counts = [record.epochs_run for record in known]
    low, high = (
        min(settings.epochs, max(least, round(count)))
        for count in (min(counts) / spread, max(counts) * spread)
    )
    return low, high


def from_records(records: Sequence[RunRecord]) -> CostFigures:
    """CostFigures of finished runs of the same configuration."""
    epochs = [epoch for record in records for epoch in record.curve]
    return CostFigures(
        "records",
        _edges(epoch.train_seconds for epoch in epochs),
        _edges(epoch.eval_seconds + epoch.save_seconds for epoch in epochs),
        START,
        *_peaks(peaks for record in records for peaks in record.cost.peak_memory.values()),
    )


def of_control(records: Sequence[RunRecord]) -> CostFigures:
    """CostFigures of a control, which has no epochs: from its record, else a rough range."""
    if not records:
        return CostFigures("not measured", evaluation=UNTRAINED)
    passes = _edges(record.cost.eval_seconds or 0.0 for record in records)
    searched = [record.tuning.train_seconds for record in records if record.tuning]
    peaks = _peaks(peaks for record in records for peaks in record.cost.peak_memory.values())
    return CostFigures("records", (0.0, 0.0), passes, START + max(searched, default=0.0), *peaks)


def from_probe(variant: Variant, start: float) -> CostFigures:
    """CostFigures of a few steps and one validation pass."""
    if variant.status != "ok":
        ending = ENDINGS[variant.status]
        return CostFigures(ending, failed=f"{ending}: {variant.error}")
    epochs = variant.epochs.seconds
    return CostFigures(
        "probe",
        _edges(epochs[1:] or epochs),  # the first one is a warm-up where there are more
        _edges(variant.evaluation.seconds),
        start,
        *_peaks(variant.peak_memory.values()),
    )


def _edges(values: Iterable[float]) -> Range:
    """The range of scattered figures, without the outermost tenth on either side."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return ordered[cut], ordered[-1 - cut]


def _peaks(phases: Iterable[PeakMemory]) -> tuple[int | None, int | None]:
    """The largest (host, GPU) peak of several phases."""
    pairs = [(peak.host, peak.reserved) for peak in phases]
    host, gpu = (max((pair[part] or 0 for pair in pairs), default=0) or None for part in (0, 1))
    return host, gpu


def sum_ranges(spans: Iterable[Range]) -> Range:
    """The range of what follows one after the other."""
    lows, highs = zip((0.0, 0.0), *spans, strict=True)
    return sum(lows), sum(highs)
