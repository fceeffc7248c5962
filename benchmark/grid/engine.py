"""The queue that all executors share: which cell next, who does it, and how it ended."""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from benchmark.grid.claims import Claim, Stamp, claim, clear, stamp, standing
from benchmark.grid.executor import Options
from benchmark.grid.progress import Board, Tracker, outcome
from benchmark.results.record import RunRecord
from benchmark.results.store import finished, outdated, set_aside, usable
from benchmark.run.spec import RunSpec, resolve_run

POLL = 0.1
"""Seconds between two looks at what runs."""
RETRY = 2.0
"""Seconds between two looks at a cell that another process does."""


@dataclass(eq=False)
class Task:
    """A cell that was claimed and runs."""

    cell: RunSpec
    path: Path
    """Of its record."""
    claim: Claim
    before: Stamp
    """The record that stood there."""
    number: int = 0


@dataclass
class Ended:
    """How the process of a task ended."""

    task: Task
    said: list[str] = field(default_factory=list)
    """Its last lines."""
    busy: bool = False
    """Whether it found that another process works on the cell."""
    lost_log: str = ""
    """Why its log does not hold all that it said; empty where it does."""


class Engine(ABC):
    """An executor (`executor.Executor`), save how a cell is started and how one learns that it ended."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.board, self.tracker = Board(), Tracker(())
        self._tasks: set[Task] = set()
        self._prepared: set[RunSpec] = set()
        self._handler: Any = None

    def __enter__(self) -> Engine:
        if threading.current_thread() is threading.main_thread():

            def terminate(number: int, frame: FrameType | None) -> None:
                raise KeyboardInterrupt

            self._handler = signal.signal(signal.SIGTERM, terminate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.board.close()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    @abstractmethod
    def prepare(self, cells: Sequence[RunSpec]) -> None:
        """Compute what `cells`, which differ in more than their seeds, read of a language model."""

    @abstractmethod
    def room(self) -> int:
        """How many cells may run at a time now."""

    @abstractmethod
    def start(self, task: Task) -> None:
        """Start it; what it says goes to `tracker.said`."""

    @abstractmethod
    def ended(self) -> list[Ended]:
        """Tasks that ended since the last call; their records, if they left any, stand in the store."""

    @abstractmethod
    def stop(self) -> None:
        """Stop what runs, and return when nothing does."""

    def run(self, cells: Sequence[RunSpec], later: int = 0) -> dict[RunSpec, RunRecord]:
        """See `executor.Executor.run`."""
        results, fresh = self.options.results, self.options.fresh
        asked = {cell: resolve_run(cell) for cell in cells}
        paths = {cell: one.record_path(results) for cell, one in asked.items()}
        codes = {cell: one.code for cell, one in asked.items()}
        found = {
            cell: record
            for cell, path in paths.items()
            if not fresh and (record := finished(path, codes[cell]))
        }
        if found:
            self.board.say(
                f"{len(found)} of {len(paths)} cells are finished already (--fresh runs them anew)"
            )
        for cell in found:
            clear(paths[cell])
        waiting = [cell for cell in paths if cell not in found]
        if old := [cell for cell in waiting if not fresh and outdated(paths[cell], codes[cell])]:
            self.board.say(
                f"{len(old)} of {len(paths)} cells were made by other code of their methods, {old[0]} among "
                "them; they are run again"
            )
        queue = _Queue({cell: paths[cell] for cell in waiting}, codes, fresh)
        new = dict.fromkeys(replace(cell, seed=0) for cell in waiting)
        self.tracker = Tracker(waiting, later, found)
        try:
            if unprepared := [cell for cell in new if cell not in self._prepared]:
                self.prepare(unprepared)
                self._prepared.update(unprepared)
            while queue or self._tasks:
                self._begin_some(queue, found)
                self._end_some(queue, found)
                self.board.status(self.tracker.status(self.room()))
                if queue or self._tasks:
                    time.sleep(POLL)
        except BaseException:
            if self._tasks:
                self.board.say(f"stopping {len(self._tasks)} cells; their checkpoints stay")
            self.stop()
            raise
        finally:
            self.board.close()
            for task in self._tasks:
                task.claim.release()
            self._tasks.clear()
        return {cell: found[cell] for cell in paths if cell in found}

    def _begin_some(self, queue: _Queue, found: dict[RunSpec, RunRecord]) -> None:
        while queue and len(self._tasks) < self.room():
            task = queue.next()
            for cell in queue.newly_deferred():
                self.board.say(f"{cell}: another process works on it; its record will be taken")
            for cell, record in queue.taken():
                found[cell] = record
                self.tracker.end(cell, ok=False)
                self.board.say(f"{cell}: {outcome(record, 0)}, by another process")
            if task is None:
                return
            if not self.options.fresh and (line := set_aside(task.path)):
                self.board.say(line)
            self._tasks.add(task)
            task.number = self.tracker.begin(task.cell)
            if not self.board.live:
                how = "goes on" if task.path.with_suffix(".checkpoint").exists() else "begins"
                self.board.say(f"{self._label(task)} {how}; its log: {log_path(task.path)}")
            self.start(task)

    def _end_some(self, queue: _Queue, found: dict[RunSpec, RunRecord]) -> None:
        for end in self.ended():
            task = end.task
            written = stamp(task.path) not in (None, task.before)
            record = usable(task.path, end.said.append) if written else None
            self._tasks.discard(task)
            task.claim.release()
            if end.busy and (record is None or record.status == "interrupted"):
                self.tracker.defer(task.cell)
                queue.defer(task.cell)
                continue
            ok = record is not None and record.status == "ok"
            seconds = self.tracker.end(task.cell, ok)
            if record is not None:
                found[task.cell] = record
                said = outcome(record, seconds)
            else:
                last = next((line for line in reversed(end.said) if line.strip()), "nothing")
                said = f"ended without a record; it last said: {last.removeprefix('adaptrec: error: ')}"
            log = log_path(task.path)
            if end.lost_log:
                said += f" (its log {log} is lost: {end.lost_log})"
            elif ok:
                log.unlink(missing_ok=True)
            elif log.exists():
                said += f" (its log: {log})"
            where = "" if self.board.live else f"; {self.tracker.grid(self.room())}"
            self.board.say(f"{self._label(task)}: {said}{where}")

    def _label(self, task: Task) -> str:
        return f"[{task.number}/{self.tracker.total}] {task.cell}"


def log_path(record_path: Path) -> Path:
    """What a cell says while it runs; kept only where the run did not end well."""
    return record_path.with_suffix(".log")


class _Queue:
    """Cells that have not begun, those that another process does last."""

    def __init__(self, paths: dict[RunSpec, Path], codes: dict[RunSpec, str | None], fresh: bool) -> None:
        self._paths, self._codes, self._fresh = paths, codes, fresh
        self._before = {cell: stamp(path) for cell, path in paths.items()}
        self._cells = deque(paths)
        self._tried: dict[RunSpec, float] = {}
        """When a cell of another process was looked at last."""
        self._new: list[RunSpec] = []
        self._taken: list[tuple[RunSpec, RunRecord]] = []

    def __len__(self) -> int:
        return len(self._cells)

    def next(self) -> Task | None:
        """The first cell that nobody does, claimed; None where there is none at the moment."""
        for _ in range(len(self._cells)):
            cell = self._cells.popleft()
            path = self._paths[cell]
            if time.monotonic() - self._tried.get(cell, -RETRY) < RETRY:
                self._cells.append(cell)
            elif (right := claim(path)) is None:
                self.defer(cell)
            elif record := standing(path, self._before[cell], self._fresh, self._codes[cell]):
                right.release()
                self._taken.append((cell, record))
            else:
                return Task(cell, path, right, stamp(path))
        return None

    def defer(self, cell: RunSpec) -> None:
        """Another process does it: look again later."""
        if cell not in self._tried:
            self._new.append(cell)
        self._tried[cell] = time.monotonic()
        self._cells.append(cell)

    def newly_deferred(self) -> list[RunSpec]:
        """Those that were found to be another process's since the last call."""
        new, self._new = self._new, []
        return new

    def taken(self) -> list[tuple[RunSpec, RunRecord]]:
        """Those that another process has finished since the last call."""
        taken, self._taken = self._taken, []
        return taken
