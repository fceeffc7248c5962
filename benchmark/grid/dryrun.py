"""`bench --dry-run`: estimate what a plan will cost in time, memory and disk, and print it.

Figures come from records where there are some, else from a probe. All times are ranges (least, most) in
seconds. What makes them wide is the number of epochs, which nobody knows before: early stopping decides it.
The store does not change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

from tabulate import tabulate

from benchmark.config import Settings
from benchmark.escape import visible_line
from benchmark.files import cache_folder
from benchmark.grid.executor import Options
from benchmark.grid.local import visible_gpus
from benchmark.grid.plan import GridPlan, by_configuration
from benchmark.grid.probe import StoredStates, probe_states, probe_training
from benchmark.grid.progress import Range
from benchmark.grid.search import Search, configuration_name
from benchmark.llm.token_states import SPARE, free_bytes
from benchmark.memory import available_memory
from benchmark.results.record import RunRecord
from benchmark.results.schema import PeakMemory
from benchmark.results.store import finished, iter_runs
from benchmark.run.spec import ResolvedRun
from benchmark.speed.record import ENDINGS, Variant
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.status import duration, time_range

GIB = 2**30
START = 15.0
"""Seconds in which a process starts and builds its model, where no probe measured it."""
UNTRAINED: Range = (0.0, 60.0)
"""Seconds in which a control scores all users, where no record has them."""
SPREAD = 2.0
"""Runs of the same method and protocol on other data or with other values take up to so many times more
epochs, or fewer."""
STATES = ("finished", "to resume", "to do")
"""States of a run."""
HEADS = [
    "configuration", "seeds", *STATES, "epochs", "s/epoch", "evaluation s", "host GiB", "GPU GiB", "about",
    "time", "from",
]  # fmt: skip
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
        return _sum([*(row.seconds for row in self.rows), *(span for _, span in self.then)])

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
    row = CostRow(first, states, epochs, figures, _sum(figures.seconds(epochs, done[run]) for run in left))
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


def _sum(spans: Iterable[Range]) -> Range:
    lows, highs = zip((0.0, 0.0), *spans, strict=True)
    return sum(lows), sum(highs)


def dry_run(plan: GridPlan, options: Options) -> int:
    """Print what `plan` would do and cost. -> 0, or 1 where disk or memory will not do."""
    plan = plan.continued(options.results)
    for line in plan.notes:
        print(f"tuning: {line}")
    estimated = estimate(plan, options.results, options.fresh, _probe, options.keep_model)
    groups: dict[tuple[str, str], list[ResolvedRun]] = {}
    for run in (run for row in estimated.rows for run in row.left):
        groups.setdefault((run.spec.dataset, run.spec.llm), []).append(run)
    stored = [states for group in groups.values() for states in probe_states(group)]
    print(
        tabulate(
            [_cells(row) for row in estimated.rows], HEADS, tablefmt="pipe", disable_numparse=True,
            colalign=["left", *["right"] * (len(HEADS) - 2), "left"],
        )
    )  # fmt: skip
    print()
    for search, seconds in estimated.then:
        print(f"then: {search}: {time_range(*seconds)}")
    for states in stored:
        cost = "there already" if states.cached else f"{time_range(*states.seconds)} to compute"
        print(f"{states.name}: {_gib(states.size)}, {cost}")
    missing = [states for states in stored if not states.cached]
    print(_total(estimated, missing, options))
    print(_uncertain(estimated))
    shortages = _shortages(estimated, missing, options)
    for line in shortages:
        print(f"adaptrec: {line}", file=sys.stderr)
    return 1 if shortages else 0


def _probe(run: ResolvedRun) -> tuple[Variant, float]:
    print(f"a few steps of {run}", file=sys.stderr, flush=True)
    return probe_training(run)


def _cells(row: CostRow) -> list[str]:
    """A line of the table."""
    spec, figures = row.run.spec, row.figures
    extra = f" ({', '.join(spec.overrides)})" if spec.overrides else ""
    counts = [str([*row.states.values()].count(state) or "") for state in STATES]
    seeds = ", ".join(str(run.spec.seed) for run in row.states)
    head = [visible_line(f"{configuration_name(row.run)}{extra}"), seeds, *counts]
    if figures.failed:
        return [*head, *[""] * 7, figures.source]
    return [
        *head,
        _span(row.epochs, ".0f"),
        _span(figures.epoch, ".3g"),
        _span(figures.evaluation, ".3g"),
        *("" if peak is None else _gib(peak, unit="") for peak in (figures.host, figures.gpu)),
        duration(row.about) if row.about is not None else "",
        time_range(*row.seconds),
        figures.source,
    ]


def _span(values: Range, form: str) -> str:
    return " to ".join(dict.fromkeys(format(value, form) for value in values))


def _gib(size: int, unit: str = " GiB") -> str:
    return f"{size / GIB:.2f}{unit}" if size >= 0.01 * GIB else f"under 0.01{unit}"


def _total(estimated: CostEstimate, missing: Sequence[StoredStates], options: Options) -> str:
    """The sum of it all; `missing` hidden states are computed first."""
    runs, jobs = sum(len(row.states) for row in estimated.rows), options.jobs or 1
    then = sum(search.later for search, _ in estimated.then)
    counts = ", ".join(f"{estimated.count(state)} {state}" for state in STATES)
    low, high = estimated.seconds
    # runs side by side on a processor share it: they need not be quicker than one after another
    seconds = _sum(
        [(low / jobs, high / (jobs if visible_gpus() else 1)), *(entry.seconds for entry in missing)]
    )
    return (
        f"{runs} run{'s' if runs != 1 else ''}: {counts}{f', then {then} more' if then else ''}. "
        f"In all {_about(estimated)}{time_range(*seconds)}{f' with {jobs} at a time' if jobs > 1 else ''}; "
        f"cache {_gib(sum(entry.size for entry in missing))} more, "
        f"{_gib(free_bytes(cache_folder()))} free in {cache_folder()}."
    )


def _about(estimated: CostEstimate) -> str:
    """The sum of the middle estimates, of runs one after another, where every row has one."""
    return "" if estimated.about is None else f"about {duration(estimated.about)} one after another, "


def _uncertain(estimated: CostEstimate) -> str:
    """How far the figures can be trusted."""
    line = "Early stopping decides how many epochs a run has: its time lies anywhere in that range"
    line += ", about where the most similar finished runs ended." if estimated.about is not None else "."
    if starts := [row.figures.start for row in estimated.rows if row.figures.source == "probe"]:
        line += (
            " Seconds of a probe are those of a few steps on made-up states, on this machine as busy as it "
            f"is now (and {duration(max(starts))} at most to start a run): half or twice as much is no "
            "surprise."
        )
    return line


def _shortages(estimated: CostEstimate, missing: Sequence[StoredStates], options: Options) -> list[str]:
    """What prevents the plan: a line each."""
    unfinished = [row for row in estimated.rows if row.left]
    lines = [f"{row.run} cannot run: {row.figures.failed}" for row in unfinished if row.figures.failed]
    disk, free = sum(entry.size for entry in missing), free_bytes(cache_folder())
    if disk + SPARE > free:
        lines.append(
            f"the disk of {cache_folder()} has {_gib(free)} free; hidden states want {_gib(disk)}, and "
            f"{_gib(SPARE)} must stay free: free some, or set ADAPTREC_CACHE to a larger disk."
        )
    at_a_time = (options.jobs or 1) * options.processes
    host = at_a_time * max((row.figures.host or 0 for row in unfinished), default=0)
    if host > (memory := int(available_memory())):
        lines.append(
            f"{at_a_time} processes at a time want {_gib(host)} of memory; {_gib(memory)} are available: "
            "give fewer --jobs."
        )
    return lines
