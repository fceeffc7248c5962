"""Commands in copies of a process that has imported everything: a fault then meets work, not imports."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

LIMIT = 300
"""Seconds until a copy ends itself."""
_IMPORTED = (
    "accelerate", "datasets", "duckdb", "matplotlib.figure", "torch._dynamo",
    "transformers.models.bert.modeling_bert", "benchmark.cli", "benchmark.run.run", "benchmark.report.build",
    "benchmark.verify.bundle", "benchmark.llm.states", "benchmark.grid.bench",
)  # fmt: skip


def import_all(environment: Mapping[str, str]) -> None:
    """Import what commands need; libraries read some of `environment` while they are imported."""
    os.environ.update(environment)
    for module in _IMPORTED:
        import_module(module)


class Copy:
    """A copy of this process that runs one command of `adaptrec`."""

    def __init__(
        self, words: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str],
        first: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Begin the command `words` in `folder`, after `first`; `log` gets its output."""
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        status = 70
        try:
            status = _run(words, folder, log, environment, first)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        """Its exit status, of a signal the negative number; None while it runs."""
        if self.status is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if found else None
        return self.status

    def wait(self) -> int:
        """Wait for its end: -> its exit status."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


def _run(
    words: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str], first: Callable[[], None]
) -> int:
    from benchmark.cli import main

    os.setsid()
    signal.alarm(LIMIT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    os.chdir(folder)
    os.environ.update(environment)
    tempfile.tempdir = None  # it is asked for again
    first()
    return main(words)
