"""Progress of a grid for people: one line that is updated on a terminal, one line an event in a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

from benchmark.escape import visible_line
from benchmark.results.metrics import measure
from benchmark.results.record import RunRecord
from benchmark.run.spec import RunSpec
from benchmark.train.status import RunStatus, duration, time_range

STATUS_SECONDS = 300.0
"""Between two lines of progress in a log."""
Clock = Callable[[], float]
Range = tuple[float, float]


def run_seconds(record: RunRecord) -> float:
    """What all epochs of a run took: training, validation, checkpoints."""
    searched = record.tuning.train_seconds if record.untrained and record.tuning else 0.0
    return searched + sum(row.train_seconds + row.eval_seconds + row.save_seconds for row in record.curve)


@dataclass
class Running:
    """A run under way."""

    number: int
    """From 1, in the order in which runs began."""
    begin: float
    status: RunStatus | None = None
    """After its last epoch; None before the first one is over."""


class Tracker:
    """How far a grid is and how long it still takes.

    A run that has not begun is taken to cost what the most similar ones did that have ended, from the
    cheapest to the dearest; as long as none has, what the running ones look like.
    """

    def __init__(
        self,
        runs: Iterable[RunSpec],
        later: int = 0,
        known: Mapping[RunSpec, RunRecord] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.waiting = dict.fromkeys(runs)
        self.total, self.ended, self.later, self._clock = len(self.waiting), 0, later, clock
        self.running: dict[RunSpec, Running] = {}
        self._costs = [(run, run_seconds(record)) for run, record in (known or {}).items()]
        self._begun = 0

    def begin(self, run: RunSpec) -> int:
        """-> the run's number."""
        self.waiting.pop(run, None)
        self._begun += 1
        self.running[run] = Running(self._begun, self._clock())
        return self._begun

    def update(self, run: RunSpec, status: RunStatus) -> None:
        """Take the run's status after an epoch."""
        if running := self.running.get(run):
            running.status = status

    def defer(self, run: RunSpec) -> None:
        """It did not begin after all: another process works on it."""
        if self.running.pop(run, None):
            self._begun -= 1
        self.waiting[run] = None

    def end(self, run: RunSpec, ok: bool) -> float:
        """-> the seconds since it began; 0 where another process did it."""
        self.ended += 1
        self.waiting.pop(run, None)
        running = self.running.pop(run, None)
        if running is None:
            return 0.0
        seconds = self._clock() - running.begin
        if ok:  # a failed run is no measure of what others cost
            self._costs.append((run, seconds))
        return seconds

    def left(self, at_a_time: int) -> Range | None:
        """Seconds, at least and at most, with so many runs at a time; None as long as nothing is known."""
        spent = {run: self._clock() - entry.begin for run, entry in self.running.items()}
        whole: dict[RunSpec, Range | None] = {
            run: _plus(entry.status.seconds_left, spent[run])
            for run, entry in self.running.items()
            if entry.status is not None
        }
        like_running = _hull(whole.values())
        whole |= {run: self._cost(run) for run in self.running if run not in whole}
        running = [cost and _plus(cost, -spent[run]) for run, cost in whole.items()]
        waiting = [self._cost(run) or like_running for run in (*self.waiting, *[None] * self.later)]
        costs = [cost for cost in (*running, *waiting) if cost]
        if len(costs) < len(running) + len(waiting):
            return None
        low, high = (sum(cost[edge] for cost in costs) / max(1, at_a_time) for edge in (0, 1))
        longest = [cost for cost in running if cost]
        return max([low, *(least for least, _ in longest)]), max([high, *(most for _, most in longest)])

    def _cost(self, run: RunSpec | None) -> Range | None:
        """What the most similar of the runs that ended did cost."""
        near = [(_likeness(run, other) if run else 0, seconds) for other, seconds in self._costs]
        best = max((likeness for likeness, _ in near), default=0)
        return _hull((seconds, seconds) for likeness, seconds in near if likeness == best)

    def grid(self, at_a_time: int) -> str:
        """How many runs ended, and the time left."""
        parts = [f"{self.ended} of {self.total} runs ended"]
        parts += [f"then {self.later} more"] if self.later else []
        if (left := self.left(at_a_time)) is not None:
            parts.append(f"left {time_range(*left)}")
        return ", ".join(parts)

    def status(self, at_a_time: int) -> str:
        """The line that is kept up to date: the grid, and each run that runs."""
        parts = [self.grid(at_a_time)]
        parts += [f"[{entry.number}] {_progress(entry.status)}" for entry in self.running.values()]
        return " | ".join(parts)


def _plus(span: Range, seconds: float) -> Range:
    return max(0.0, span[0] + seconds), max(0.0, span[1] + seconds)


def _hull(spans: Iterable[Range | None]) -> Range | None:
    """The range from the least to the most of `spans`; None where there are none."""
    known = [span for span in spans if span]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _progress(status: RunStatus | None) -> str:
    if status is None:
        return "begins"
    return f"epoch {status.epoch}/{status.epochs}, {measure(status.metric).label} {status.valid:.4f}"


def _likeness(run: RunSpec, other: RunSpec) -> int:
    """How much of what decides the cost two runs share."""
    weights = {"method": 8, "dataset": 4, "llm": 2, "protocol": 1}
    return sum(weight for name, weight in weights.items() if getattr(run, name) == getattr(other, name))


def outcome(record: RunRecord, seconds: float) -> str:
    """How a run ended, in a line."""
    if record.status != "ok":
        return f"{record.status}: {record.error}"
    took = f", {duration(seconds)}" if seconds else ""
    if record.untrained:
        masked = record.metrics["valid_masked"]["recall@10"]
        trials = f"the best of {record.trials} trials, " if record.trials > 1 else ""
        return f"ok, {trials}validation R@10 {masked:.4f} (masked){took}"
    best = record.curve[(record.best_epoch or 1) - 1] if record.curve else None
    quality = f", validation R@10 {best.valid['recall@10']:.4f} at epoch {record.best_epoch}" if best else ""
    several = "epoch" if record.epochs_run == 1 else "epochs"
    return f"ok after {record.epochs_run} {several}{quality}{took}"


class Board:
    """Prints lines that stay, and below them, on a terminal, one that is kept up to date."""

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self.live = self._stream.isatty()
        """Whether the line can be kept up to date."""
        self._clock, self._last, self._printed = clock, clock(), ""

    def print(self, line: str) -> None:
        """A line that stays."""
        self._clear()
        print(visible_line(line), file=self._stream, flush=True)

    def status(self, text: str) -> None:
        """The progress of the grid; in a log only now and then."""
        if self.live:
            text = text[: shutil.get_terminal_size().columns - 1]
            if text != self._printed:
                self._clear()
                print(text, end="", file=self._stream, flush=True)
                self._printed = text
        elif self._clock() - self._last >= STATUS_SECONDS:
            self._last = self._clock()
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Remove the line that is kept up to date."""
        self._clear()

    def _clear(self) -> None:
        if self._printed:
            print(f"\r{' ' * len(self._printed)}\r", end="", file=self._stream, flush=True)
            self._printed = ""
