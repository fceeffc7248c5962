"""A cell as a process of its own, or several: started, listened to, interrupted, killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path

from benchmark.grid import lifeline
from benchmark.grid.memory import Memory
from benchmark.process import import_path
from benchmark.run.spec import RunSpec

GRACE = lifeline.GRACE
TAIL = 30
"""Lines that are kept."""
ENVIRONMENT = {
    lifeline.VARIABLE: "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore:The pynvml package is deprecated",
}
Listener = Callable[[str], None]


def run_command(cell: RunSpec, results: Path, processes: int, fresh: bool) -> list[str]:
    """`python -m benchmark run` for `cell`, under torchrun where it takes several processes."""
    # torchrun: without MPI `accelerate launch --cpu --num_processes 2` starts one process and says nothing
    launcher = ["-m", "benchmark.grid.launch", "--standalone", "--nproc_per_node", str(processes)]
    return [
        sys.executable, *(launcher if processes > 1 else []), "-m", "benchmark",
        "run", "--dataset", cell.dataset, "--llm", cell.llm, "--method", cell.method,
        "--protocol", cell.protocol, "--seed", str(cell.seed), "--results", str(results),
        *cell.reading.words(),
        *(["--set", *cell.overrides] if cell.overrides else []), *(["--fresh"] if fresh else []),
    ]  # fmt: skip


class Log:
    """The lines of a process in a file. A file that cannot be written is lost, and nothing else."""

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
    """A process whose every line goes to the file `log` and to `listen`, and that ends when this one does.

    It leads a session of its own: ctrl-C on a terminal reaches it through `interrupt` alone, once. It can
    read `given` from its standard input, which stays open as long as this process lives.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path | None = None,
        listen: Listener = lambda _: None,
        environment: Mapping[str, str] | None = None,
        given: str = "",
    ) -> None:
        self._listen = listen
        self._fault: Exception | None = None
        self.tail: deque[str] = deque(maxlen=TAIL)
        """The last lines that it said."""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
            env={**os.environ, **ENVIRONMENT, **import_path.environment(), **(environment or {})},
        )  # fmt: skip
        self.memory = Memory(self.process.pid)
        self.log = Log(log or Path(os.devnull))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone already: its status says so
            self.process.stdin.write(given)
            self.process.stdin.flush()

    def _read(self) -> None:
        """Take every line, whatever becomes of it: a process whose pipe is full would wait for ever."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.write(line)
            self.tail.append(line.rstrip("\n"))
            if self._fault is None:
                try:
                    self._listen(self.tail[-1])
                except Exception as error:  # `ended` raises it, where somebody can handle it
                    self._fault = error
        self.log.close()

    def ended(self) -> int | None:
        """The exit status (of a signal: its negative number), once all that it said was read.

        Raises what `listen` raised. Whoever waits calls this again and again: it measures memory too.
        """
        status = self.process.poll()
        if self._fault is not None:
            raise self._fault
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
