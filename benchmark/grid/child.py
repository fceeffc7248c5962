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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmark import import_path
from benchmark.cell import Cell
from benchmark.grid import lifeline
from benchmark.record import BUSY

GRACE = lifeline.GRACE
TAIL = 30
"""Lines that are kept."""
ENVIRONMENT = {
    lifeline.VARIABLE: "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore:The pynvml package is deprecated",
}
Listener = Callable[[str], None]


def run_command(cell: Cell, results: Path, processes: int, fresh: bool) -> list[str]:
    """`python -m benchmark run` for `cell`, under torchrun where it takes several processes."""
    # torchrun: without MPI `accelerate launch --cpu --num_processes 2` starts one process and says nothing
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [
        sys.executable, *(launcher if processes > 1 else []), "-m", "benchmark",
        "run", "--dataset", cell.dataset, "--llm", cell.llm, "--method", cell.method,
        "--protocol", cell.protocol, "--seed", str(cell.seed), "--results", str(results),
        *(["--set", *cell.overrides] if cell.overrides else []), *(["--fresh"] if fresh else []),
    ]  # fmt: skip


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
        self.busy = False
        """Whether it said that another process works on its cell."""
        self.tail: deque[str] = deque(maxlen=TAIL)
        """The last lines that it said."""
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
            env={**os.environ, **ENVIRONMENT, **import_path.environment(), **(environment or {})},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(log or Path(os.devnull),), daemon=True)
        self._reader.start()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone already: its status says so
            self.process.stdin.write(given)
            self.process.stdin.flush()

    def _read(self, path: Path) -> None:
        assert self.process.stdout is not None
        with path.open("w", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                self.busy |= BUSY in line
                self.tail.append(line.rstrip("\n"))
                self._listen(self.tail[-1])

    def ended(self) -> int | None:
        """The exit status (of a signal: its negative number), once all that it said was read."""
        status = self.process.poll()
        if status is None:
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
