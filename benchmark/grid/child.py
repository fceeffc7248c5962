"""Child processes: start one, read its output, measure its memory, interrupt it, kill it; and that of a run,
with its status file and, if a signal ends it, its record."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import psutil

from benchmark.grid.executor import Options, run_command
from benchmark.measure import environment, pick_device
from benchmark.process import lifeline, startup
from benchmark.results.schema import PeakMemory
from benchmark.results.store import finished
from benchmark.run.describe import blank
from benchmark.run.precision import pick_precision
from benchmark.run.spec import ResolvedRun
from benchmark.train.status import RunStatus, StatusFile

GRACE = lifeline.GRACE
GIB = 2**30
TAIL = 30
"""Lines that are kept."""
ENVIRONMENT = {
    lifeline.VARIABLE: "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore:The pynvml package is deprecated",
}
OnLine = Callable[[str], None]


MEASURE_SECONDS = 0.25
"""Seconds between two measurements."""
DESCENDANTS_SECONDS = 2.0
"""Seconds between two searches for its descendants, which look at every process of the machine."""


class Memory:
    """Resident memory of a process and its descendants, measured from outside: the process may be killed."""

    def __init__(self, process: int) -> None:
        self.peak: int | None = None
        """The largest sum so far, in bytes; None as long as there is no measurement."""
        self.now = 0
        """The last sum."""
        self._group: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):  # it has ended already
            self._group = [psutil.Process(process)]
        self._measured = self._searched = -max(MEASURE_SECONDS, DESCENDANTS_SECONDS)

    def measure(self) -> None:
        """Measure, unless the last measurement is recent."""
        now = time.monotonic()
        if not self._group or now - self._measured < MEASURE_SECONDS:
            return
        self._measured = now
        if now - self._searched >= DESCENDANTS_SECONDS:
            self._searched = now
            with contextlib.suppress(psutil.Error):
                self._group[1:] = self._group[0].children(recursive=True)
        held = 0
        for process in self._group:
            with contextlib.suppress(psutil.Error):
                held += process.memory_info().rss
        if held:
            self.now, self.peak = held, max(self.peak or 0, held)


class Log:
    """The output of a process in a file. If the file cannot be written, only the log is incomplete."""

    def __init__(self, path: Path) -> None:
        self.lost = ""
        """Why lines are missing; empty where none are."""
        self._file: FileIO | None = None
        with self._losing():
            self._file = path.open("wb", buffering=0)

    def write(self, line: str) -> None:
        """Add `line`, unless the file is lost."""
        if self._file is not None and not self.lost:
            with self._losing():
                self._file.write(line.encode())

    def close(self) -> None:
        """Nothing more is added."""
        if self._file is not None:
            with self._losing():
                self._file.close()

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error.strerror or str(error)


class Child:
    """A process whose output goes to the file `log` and, by lines, to `on_line`; it ends with this process.

    It leads a session of its own: ctrl-C on a terminal reaches it through `interrupt` alone, once. It can
    read `given` from its standard input, which stays open as long as this process lives.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path | None = None,
        on_line: OnLine = lambda _: None,
        environment: Mapping[str, str] | None = None,
        given: str = "",
    ) -> None:
        self._on_line = on_line
        self._error: Exception | None = None
        self.tail: deque[str] = deque(maxlen=TAIL)
        """The last lines of its output."""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
            env={**os.environ, **ENVIRONMENT, **startup.environment(), **(environment or {})},
        )  # fmt: skip
        self.memory = Memory(self.process.pid)
        self.log = Log(log or Path(os.devnull))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already, which `ended` reports
            self.process.stdin.write(given)
            self.process.stdin.flush()

    def _read(self) -> None:
        """Read every line, whatever becomes of it: a process whose pipe is full would wait for ever."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.write(line)
            self.tail.append(line.rstrip("\n"))
            if self._error is None:
                try:
                    self._on_line(self.tail[-1])
                except Exception as error:  # `ended` raises it in the thread that waits
                    self._error = error
        self.log.close()

    def ended(self) -> int | None:
        """The exit status (of a signal: its negative number), once all of its output was read.

        Raises what `on_line` raised. Whoever waits calls this again and again: it also measures memory.
        """
        status = self.process.poll()
        if self._error is not None:
            raise self._error
        if status is None:
            self.memory.measure()
            return None
        self._reader.join(1.0)  # longer only where a grandchild that outlived it holds the pipe
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        return status

    def interrupt(self) -> None:
        """As ctrl-C does; it and all that it started."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """At once; it and all that it started."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def stop(children: Sequence[Child], grace: float = GRACE) -> None:
    """Interrupt all, wait `grace` seconds, kill what is left. A second ctrl-C kills at once."""
    try:
        for child in children:
            child.interrupt()
        end = time.monotonic() + grace
        while time.monotonic() < end and any(child.ended() is None for child in children):
            time.sleep(0.05)
    finally:
        for child in children:
            child.kill()


Stamp = tuple[int, int] | None
"""Identifies a version of a file; None where there is none."""


def stamp(record_path: Path) -> Stamp:
    """Of the present record."""
    try:
        status = record_path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


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
