"""The children of a grid without processes: what starting one costs, tests that are not about it save."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from benchmark import cli
from benchmark.grid import child, prepare
from benchmark.grid.child import TAIL, Log, Memory, OnLine

MAIN: dict[str, Callable[[Sequence[str]], int]] = {
    "benchmark": cli.main,
    "benchmark.grid.prepare": lambda arguments: prepare.main(*arguments),
}


class InProcess:
    """Does at once, in this process, what a `benchmark.grid.child.Child` would have another one do."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path | None = None,
        on_line: OnLine = lambda _: None,
        environment: Mapping[str, str] | None = None,
        given: str = "",
    ) -> None:
        _, option, module, *arguments = command
        assert option == "-m"
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            self._status = MAIN[module]([*arguments, *given.splitlines()])
        self.memory = Memory(os.getpid())
        """Nothing is measured."""
        self.log = Log(log or Path(os.devnull))
        self.log.write(output.getvalue())
        self.log.close()
        lines = output.getvalue().splitlines()
        self.tail = deque(lines, maxlen=TAIL)
        for line in lines:
            on_line(line)

    def ended(self) -> int:
        return self._status


@contextmanager
def children_in_process() -> Iterator[None]:
    """What a grid on this machine would start processes for, this process does."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (child, prepare):
            patch.setattr(module, "Child", InProcess)
        yield
