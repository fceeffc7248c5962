"""A run of a grid as a child process, with its log and status file and, if a signal ends it, its record."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.grid.child import Child
from benchmark.grid.claims import Stamp, stamp
from benchmark.grid.executor import Options, run_command
from benchmark.measure import environment, pick_device
from benchmark.results.record import PeakMemory
from benchmark.results.store import finished
from benchmark.run.build import pick_precision
from benchmark.run.describe import blank
from benchmark.run.spec import ResolvedRun
from benchmark.train.status import RunStatus, StatusFile

GIB = 2**30


@dataclass
class Exit:
    """How the process of a run ended."""

    status: int
    """Its exit status (`process.exit_status.ExitCode`); of a signal, its negative number."""
    tail: list[str] = field(default_factory=list)
    """The last lines of its output."""
    lost_log: str = ""
    """Why its log is incomplete; empty where it is complete."""


def log_path(record_path: Path) -> Path:
    """The output of a run; kept only if the run did not end well."""
    return record_path.with_suffix(".log")


class RunProcess:
    """The process of one run. If a signal ends it, other than by `child.stop`, that becomes a record."""

    def __init__(
        self, run: ResolvedRun, options: Options, variables: Mapping[str, str] | None = None
    ) -> None:
        """Start it, with `variables` added to the environment."""
        self.run, self._processes = run, options.processes
        self.path = run.record_path(options.results)
        self._before: Stamp = stamp(self.path)
        self._status_file = StatusFile(self.path.with_suffix(".status"))
        self.child = Child(
            run_command(run.spec, options),
            log_path(self.path),
            environment={**self._status_file.environment, **(variables or {})},
        )

    def progress(self) -> RunStatus | None:
        """Its status after the last epoch; None where there is none since the last call."""
        return next(reversed(self._status_file.read()), None)

    def exit(self, stopped: bool = False) -> Exit | None:
        """How it ended, with its record in the store; None while it runs. `stopped`: by this program."""
        if (status := self.child.ended()) is None:
            return None
        self._status_file.remove()
        tail = list(self.child.tail)
        if status < 0 and not stopped:
            tail.append(self._record_killed(-status))
        return Exit(status, tail, self.child.log.lost)

    def clean_up(self) -> None:
        """Remove its status file, after `child.stop` has stopped it."""
        self._status_file.remove()

    def _record_killed(self, number: int) -> str:
        """Write a record, unless the run wrote one itself before the signal came; returns the reason."""
        resumes = self.path.with_suffix(".checkpoint").exists()
        again = "goes on from the last epoch" if resumes else "runs it again"
        peak = self.child.memory.peak
        error = f"{_reason(number, peak)}; the same command {again}"
        if stamp(self.path) in (None, self._before) and finished(self.path, None) is None:
            device = pick_device()
            precision = pick_precision(self.run.settings, device)
            record = blank(self.run, environment(device, precision, self._processes))
            record.status, record.error = "killed", error
            record.cost.peak_memory = {"run": PeakMemory(host=peak)} if peak else {}
            record.write(self.path)
        return error


def _reason(number: int, peak: int | None) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "no standard signal"
    why = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
    memory = f"; its processes held up to {peak / GIB:.2f} GiB of host memory" if peak else ""
    return f"signal {number} ({name}) ended the process{why}{memory}"
