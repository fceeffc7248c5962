"""What runs the cells of a grid: the contract of an executor, and what all executors are told.

A bench expands names into a plan (`plan.py`) and gives each stage of it to one executor:

    executor = make_executor("local", Options(results, processes=1, fresh=False, jobs=2))
    with executor:
        found = executor.run(stage.cells, later=8)  # 8 more cells will follow in stages not known yet
        ...choose by validation...
        found |= executor.run(chosen)

`run` may be called any number of times, as a tuning search does: trials first, then the configuration that
was chosen. Whoever tunes reads records only from what `run` returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from benchmark.config import EXECUTORS
from benchmark.results.record import RunRecord
from benchmark.run.spec import RunSpec
from methods.errors import UserError, unknown


@dataclass(frozen=True)
class Options:
    """What every executor is told."""

    results: Path
    """The store: the folder of the records."""
    processes: int = 1
    """Processes of a cell, each with a GPU of its own where there are any."""
    fresh: bool = False
    """Discard finished records and checkpoints of the cells that are asked for."""
    jobs: int | None = None
    """Cells at a time at most; None is one on this machine, and as many as there is room for on a cluster."""
    cpus: int | None = None
    """CPUs of a cell on a cluster; None is one a process. On this machine cells share what there is."""
    address: str | None = None
    """Of a Ray cluster; None is $RAY_ADDRESS, else one of this machine that ends with the bench."""

    def __post_init__(self) -> None:
        for name, value in (("--processes", self.processes), ("--jobs", self.jobs), ("--cpus", self.cpus)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}.")


class Executor(Protocol):
    """Runs cells, each in a fresh process, until every one has ended, well or not."""

    def run(self, cells: Sequence[RunSpec], later: int = 0) -> dict[RunSpec, RunRecord]:
        """Run `cells`; `later` more will follow, which only the time left takes into account.

        All are resolved before the first one starts, so that every mistake is found before the first hour
        is spent, and the hidden states that they read are computed. Finished ones are not run again, and
        their records returned; nor is a cell done twice that another bench on the same store works on: its
        record is awaited and taken. A cell that `failed`, ran out of memory (`oom`) or was interrupted is a
        record too, and the next `run` of it tries again; so is one whose process a signal ended (`killed`).
        A cell that ended with a user's mistake is absent. Ctrl-C and SIGTERM stop the cells,
        which leave their checkpoints, and raise `KeyboardInterrupt`. Raises `UserError`.
        """

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing running."""


def make_executor(name: str, options: Options) -> Executor:
    """The executor `name` of `EXECUTORS`. Raises `UserError` for any other, and where it cannot work here."""
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    if name == "ray":
        from benchmark.grid.ray import RayExecutor

        return RayExecutor(options)
    from benchmark.grid.local import LocalExecutor

    return LocalExecutor(options)
