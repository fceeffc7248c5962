"""The queue that executors share: which run is next, which process executes it, and how it ended.

Locks keep two benches on one store from executing the same run. A run holds `<record>.lock` while it works; a
bench holds `<record>.claim` from before it starts the run until it has read the record. The system frees both
when their holder ends, however it ends. Machines that share a store need a file system on which locks work
between them, as NFS 4 is.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from benchmark.files import remove_abandoned
from benchmark.grid.child import Exit, Stamp, log_path, stamp
from benchmark.grid.executor import Options
from benchmark.grid.progress import Board, Tracker, outcome
from benchmark.process.exit_status import ExitCode
from benchmark.process.locks import Lock
from benchmark.results.measures import several
from benchmark.results.record import RunRecord
from benchmark.results.store import Standing, lacks_model, look_up, set_aside, usable
from benchmark.run.spec import ResolvedRun

POLL = 0.1
"""Seconds between two looks at the running processes."""
RETRY = 2.0
"""Seconds between two looks at a run that another process executes."""


@dataclass(eq=False)
class ClaimedRun:
    """A run that is claimed and under way."""

    run: ResolvedRun
    path: Path
    """Of its record."""
    claim: Lock
    before: Stamp
    """Of the record at `path` when the run was claimed."""
    fault: str = ""
    """Why that record does not count; see `store.Standing`."""
    number: int = 0


class Engine(ABC):
    """An executor (`executor.Executor`) but for how a run is started and how its end is noticed."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.board, self.tracker = Board(), Tracker(())
        self._tasks: set[ClaimedRun] = set()
        self._prepared: set[ResolvedRun] = set()
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
    def prepare(self, runs: Sequence[ResolvedRun]) -> None:
        """Compute what `runs`, which differ in more than their seeds, read of a language model."""

    @abstractmethod
    def room(self) -> int:
        """How many runs may be under way now."""

    def fits(self, run: ResolvedRun) -> bool:
        """Whether `run` may start beside those that are under way."""
        return True

    @abstractmethod
    def start(self, task: ClaimedRun) -> None:
        """Start its process, whose status goes to `tracker.update`."""

    @abstractmethod
    def ended(self) -> list[tuple[ClaimedRun, Exit]]:
        """Tasks that ended since the last call; their records, if they wrote any, are in the store."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all processes, and return when none is left."""

    def run(self, runs: Sequence[ResolvedRun], later: int = 0) -> dict[ResolvedRun, RunRecord]:
        """See `executor.Executor.run`."""
        queue = _Queue(runs, self.options, self.board)
        records = dict(queue.finished)
        self._print_start(queue)
        for run in records:
            clear(queue.paths[run])
        configurations = list(dict.fromkeys(run.with_seed(0) for run in queue.pending))
        self.tracker = Tracker(
            [run.spec for run in queue.pending],
            later,
            {run.spec: record for run, record in records.items()},
        )
        try:
            if unprepared := [run for run in configurations if run not in self._prepared]:
                self.prepare(unprepared)
                self._prepared.update(unprepared)
            while queue.pending or self._tasks:
                self._start_some(queue, records)
                self._finish_some(queue, records)
                self.board.status(self.tracker.status(self.room()))
                if queue.pending or self._tasks:
                    time.sleep(POLL)
        except BaseException:
            if self._tasks:
                stay = "its checkpoint stays" if len(self._tasks) == 1 else "their checkpoints stay"
                self.board.print(f"stopping {several(len(self._tasks), 'run')}; {stay}")
            self.stop()
            raise
        finally:
            self.board.close()
            for task in self._tasks:
                task.claim.remove()
            self._tasks.clear()
        return {run: records[run] for run in queue.paths if run in records}

    def _print_start(self, queue: _Queue) -> None:
        """Print how many runs are finished, and how many are finished but outdated."""
        total = len(queue.paths)
        if queue.finished:
            self.board.print(
                f"{len(queue.finished)} of {total} runs are finished already (--fresh runs them anew)"
            )
        if queue.outdated:
            self.board.print(
                f"{len(queue.outdated)} of {total} runs were made by other code of their methods, "
                f"{queue.outdated[0]} among them; they are run again"
            )
        if queue.without_model:
            self.board.print(
                f"{len(queue.without_model)} of {total} runs have no kept weights, {queue.without_model[0]} "
                "among them; they are run again"
            )

    def _start_some(self, queue: _Queue, records: dict[ResolvedRun, RunRecord]) -> None:
        for run in [*queue.pending]:
            if len(self._tasks) >= self.room():
                return
            if not self.fits(run):
                continue
            task = queue.take(run)
            if isinstance(task, RunRecord):
                records[run] = task
                self.tracker.end(run.spec, ok=False)
                self.board.print(f"{run}: {outcome(task, 0)}, by another process")
            elif task is not None:
                if task.fault:
                    self.board.print(set_aside(task.path, task.fault))
                self._tasks.add(task)
                task.number = self.tracker.begin(run.spec)
                if not self.board.live:
                    how = "goes on" if task.path.with_suffix(".checkpoint").exists() else "begins"
                    self.board.print(f"{self._label(task)} {how}; its log: {log_path(task.path)}")
                self.start(task)

    def _finish_some(self, queue: _Queue, records: dict[ResolvedRun, RunRecord]) -> None:
        for task, ended in self.ended():
            tail = ended.tail
            written = stamp(task.path) not in (None, task.before)
            record = usable(task.path, tail.append) if written else None
            self._tasks.discard(task)
            task.claim.remove()
            if ended.status == ExitCode.BUSY and (record is None or record.status == "interrupted"):
                self.tracker.defer(task.run.spec)
                queue.defer(task.run)
                continue
            ok = record is not None and record.status == "ok"
            seconds = self.tracker.end(task.run.spec, ok)
            if record is not None:
                records[task.run] = record
                line = outcome(record, seconds)
            else:
                last = next((line for line in reversed(tail) if line.strip()), "nothing")
                line = f"ended without a record; its last line: {last}"
            log = log_path(task.path)
            if ended.lost_log:
                line += f" (its log {log} is lost: {ended.lost_log})"
            elif ok:
                log.unlink(missing_ok=True)
            elif log.exists():
                line += f" (its log: {log})"
            where = "" if self.board.live else f"; {self.tracker.grid(self.room())}"
            self.board.print(f"{self._label(task)}: {line}{where}")

    def _label(self, task: ClaimedRun) -> str:
        return f"[{task.number}/{self.tracker.total}] {task.run}"


class _Queue:
    """Pending runs; those that another process executes go last."""

    def __init__(self, runs: Iterable[ResolvedRun], options: Options, board: Board) -> None:
        self._board = board
        self.paths = {run: run.record_path(options.results) for run in runs}
        self._before = {run: stamp(path) for run, path in self.paths.items()}
        standings = {
            run: Standing() if options.fresh else look_up(path, run.code, options.keep_model)
            for run, path in self.paths.items()
        }
        self._keep_model = options.keep_model
        self.finished = {run: standing.finished for run, standing in standings.items() if standing.finished}
        self.outdated = [run for run, standing in standings.items() if standing.outdated]
        self.without_model = [run for run, standing in standings.items() if standing.without_model]
        self._faults = {run: standing.fault for run, standing in standings.items()}
        self.pending = [run for run in self.paths if run not in self.finished]
        self._tried: dict[ResolvedRun, float] = {}
        """When a run of another process was looked at last."""

    def take(self, run: ResolvedRun) -> ClaimedRun | RunRecord | None:
        """A pending run, claimed; its record if another process made one meanwhile; None as long as another
        process executes it."""
        if time.monotonic() - self._tried.get(run, -RETRY) < RETRY:
            return None
        path = self.paths[run]
        self.pending.remove(run)
        if (claimed := claim(path)) is None:
            self.defer(run)
            return None
        if record := self._made_meanwhile(run):
            claimed.remove()
            return record
        return ClaimedRun(run, path, claimed, stamp(path), self._faults[run])

    def _made_meanwhile(self, run: ResolvedRun) -> RunRecord | None:
        """The record that another process wrote since this bench began, if it makes the run needless: however
        its run ended, unless it was interrupted or is of other code."""
        path, faults = self.paths[run], list[str]()
        if stamp(path) == self._before[run]:
            return None
        record = usable(path, faults.append)
        self._faults[run] = "".join(faults)
        counts = record and record.status != "interrupted" and not record.made_by_other(run.code)
        if counts and self._keep_model and record and record.status == "ok" and lacks_model(path, record):
            return None
        return record if counts else None

    def defer(self, run: ResolvedRun) -> None:
        """Another process executes it: look again later."""
        if run not in self._tried:
            self._board.print(f"{run}: another process works on it; its record will be taken")
        self._tried[run] = time.monotonic()
        self.pending.append(run)


def claim(record_path: Path) -> Lock | None:
    """The lock that allows to execute the run of `record_path`, held until its `remove`; None where another
    process works on the run."""
    lock = Lock(record_path.with_suffix(".claim"))
    record_path.parent.mkdir(parents=True, exist_ok=True)
    if not lock.acquire():
        return None
    if _running(record_path):
        lock.remove()
        return None
    return lock


def _running(record_path: Path) -> bool:
    """Whether a process that no bench started executes the run."""
    file = record_path.with_suffix(".lock")
    if not file.exists():
        return False
    lock = Lock(file)
    if not lock.acquire():
        return True
    lock.remove()  # of a run that was killed
    return False


def clear(record_path: Path) -> None:
    """Remove what a process that was killed has left beside a finished record: checkpoint, log, status, locks
    and temporary files.

    Nothing is removed where another process works on the run.
    """
    remove_abandoned(record_path.parent)
    checkpoint, *files = (record_path.with_suffix(end) for end in (".checkpoint", ".log", ".status"))
    locks = record_path.with_suffix(".claim"), record_path.with_suffix(".lock")
    if not any(path.exists() for path in (checkpoint, *files, *locks)) or not (lock := claim(record_path)):
        return
    shutil.rmtree(checkpoint, ignore_errors=True)
    for file in files:
        with suppress(OSError):  # somebody else's, or a folder of that name
            file.unlink(missing_ok=True)
    lock.remove()
