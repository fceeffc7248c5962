"""What a person watching a grid sees: one line kept up to date on a terminal, a line an event in a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

from benchmark.results.record import RunRecord
from benchmark.run.spec import RunSpec
from benchmark.train.told import EpochLine, duration, parse_line, time_range

STATUS_SECONDS = 300.0
"""Between two lines of progress in a log."""
Clock = Callable[[], float]
Range = tuple[float, float]


def run_seconds(record: RunRecord) -> float:
    """What all epochs of a run took: training, validation, checkpoints."""
    return sum(row.train_seconds + row.eval_seconds + row.save_seconds for row in record.curve)


@dataclass
class Running:
    """A cell under way."""

    number: int
    """From 1, in the order in which cells began."""
    begin: float
    line: EpochLine | None = None
    """Its last epoch; None before the first one is over."""


class Tracker:
    """How far a grid is and how long it still takes.

    A cell that has not begun is taken to cost what the most similar ones did that have ended, from the
    cheapest to the dearest; as long as none has, what the running ones look like.
    """

    def __init__(
        self,
        cells: Iterable[RunSpec],
        later: int = 0,
        known: Mapping[RunSpec, RunRecord] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.waiting = dict.fromkeys(cells)
        self.total, self.ended, self.later, self._clock = len(self.waiting), 0, later, clock
        self.running: dict[RunSpec, Running] = {}
        self._costs = [(cell, run_seconds(record)) for cell, record in (known or {}).items()]
        self._begun = 0

    def begin(self, cell: RunSpec) -> int:
        """-> the cell's number."""
        self.waiting.pop(cell, None)
        self._begun += 1
        self.running[cell] = Running(self._begun, self._clock())
        return self._begun

    def said(self, cell: RunSpec, line: str) -> None:
        """A line of the cell's output. May be called from any thread."""
        running, told = self.running.get(cell), parse_line(line)
        if running is not None and told is not None:
            running.line = told

    def defer(self, cell: RunSpec) -> None:
        """It did not begin after all: another process works on it."""
        if self.running.pop(cell, None):
            self._begun -= 1
        self.waiting[cell] = None

    def end(self, cell: RunSpec, ok: bool) -> float:
        """-> the seconds since it began; 0 where another process did it."""
        self.ended += 1
        self.waiting.pop(cell, None)
        running = self.running.pop(cell, None)
        if running is None:
            return 0.0
        seconds = self._clock() - running.begin
        if ok:  # what failed says little about what others cost
            self._costs.append((cell, seconds))
        return seconds

    def left(self, at_a_time: int) -> Range | None:
        """Seconds, at least and at most, with so many cells at a time; None as long as nothing is known."""
        now, running = self._clock(), []
        for cell, one in self.running.items():
            if one.line is not None:
                running.append((one.line.least, one.line.most))
            elif (cost := self._cost(cell)) is not None:
                running.append((max(0.0, cost[0] - now + one.begin), max(0.0, cost[1] - now + one.begin)))
        waiting = [self._cost(cell) or self._looks() for cell in self.waiting]
        waiting += [self._cost(None) or self._looks()] * self.later
        costs = [*running, *waiting]
        if None in costs or len(running) < len(self.running):
            return None
        low, high = (sum(cost[edge] for cost in costs if cost) / max(1, at_a_time) for edge in (0, 1))
        return max([low, *(one[0] for one in running)]), max([high, *(one[1] for one in running)])

    def _cost(self, cell: RunSpec | None) -> Range | None:
        """What the most similar of the cells that ended did cost."""
        near = [(_likeness(cell, other) if cell else 0, seconds) for other, seconds in self._costs]
        if not near:
            return None
        best = max(likeness for likeness, _ in near)
        seconds = [seconds for likeness, seconds in near if likeness == best]
        return min(seconds), max(seconds)

    def _looks(self) -> Range | None:
        """What those that run look to cost in all."""
        now = self._clock()
        seen = [
            (now - one.begin + one.line.least, now - one.begin + one.line.most)
            for one in self.running.values()
            if one.line is not None
        ]
        return (min(low for low, _ in seen), max(high for _, high in seen)) if seen else None

    def grid(self, at_a_time: int) -> str:
        """Where the grid stands."""
        parts = [f"{self.ended} of {self.total} cells ended"]
        parts += [f"then {self.later} more"] if self.later else []
        if (left := self.left(at_a_time)) is not None:
            parts.append(f"left {time_range(*left)}")
        return ", ".join(parts)

    def status(self, at_a_time: int) -> str:
        """The line that is kept up to date: the grid, and each cell that runs."""
        parts = [self.grid(at_a_time)]
        for one in self.running.values():
            far = (
                f"epoch {one.line.epoch}/{one.line.epochs}, R@10 {one.line.valid:.4f}"
                if one.line
                else "begins"
            )
            parts.append(f"[{one.number}] {far}")
        return " | ".join(parts)


def _likeness(one: RunSpec, other: RunSpec) -> int:
    """How much of what decides the cost two cells share."""
    weights = {"method": 8, "dataset": 4, "llm": 2, "protocol": 1}
    return sum(weight for name, weight in weights.items() if getattr(one, name) == getattr(other, name))


def outcome(record: RunRecord, seconds: float) -> str:
    """How a cell ended, in a line."""
    if record.status != "ok":
        return f"{record.status}: {record.error}"
    best = record.curve[(record.best_epoch or 1) - 1] if record.curve else None
    quality = f", validation R@10 {best.valid['recall@10']:.4f} at epoch {record.best_epoch}" if best else ""
    several = "epoch" if record.epochs_run == 1 else "epochs"
    took = f", {duration(seconds)}" if seconds else ""
    return f"ok after {record.epochs_run} {several}{quality}{took}"


class Board:
    """Lines that stay, and below them on a terminal one that is kept up to date."""

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self.live = self._stream.isatty()
        """Whether the line can be kept up to date."""
        self._clock, self._last, self._shown = clock, clock(), ""

    def say(self, line: str) -> None:
        """A line that stays."""
        self._clear()
        print(line, file=self._stream, flush=True)

    def status(self, text: str) -> None:
        """Where the grid stands; in a log only now and then."""
        if self.live:
            text = text[: shutil.get_terminal_size().columns - 1]
            if text != self._shown:
                self._clear()
                print(text, end="", file=self._stream, flush=True)
                self._shown = text
        elif self._clock() - self._last >= STATUS_SECONDS:
            self._last = self._clock()
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing more is kept up to date."""
        self._clear()

    def _clear(self) -> None:
        if self._shown:
            print(f"\r{' ' * len(self._shown)}\r", end="", file=self._stream, flush=True)
            self._shown = ""
