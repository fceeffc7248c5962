"""The contract of an executor, which executes the runs of a grid, and the list of executors.

A bench expands names into a plan (`plan.py`) and gives its runs to one executor:

    with make_executor("local", Options(results, jobs=2)) as executor:
        records = executor.run(plan.known_runs, later=8)  # 8 more runs will follow from the results
        ...choose by validation...
        records |= executor.run(chosen)

`run` may be called any number of times, as a tuning search does: trials first, then the chosen configuration.
An executor of another package is a callable `Options -> Executor` behind the entry point group
`adaptrec.executors`; docs/grid.md has an example.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import TracebackType
from typing import Protocol

from benchmark.results.record import RunRecord
from benchmark.run.spec import ResolvedRun, RunSpec, specs_to_json
from methods.errors import UserError, unknown
from methods.plugins import BROKEN, offered, one_line

GROUP = "adaptrec.executors"
"""Entry points of executors: name -> callable `Options -> Executor`."""
BUILT_IN = {
    "local": "benchmark.grid.local:LocalExecutor",
    "ray": "benchmark.grid.ray:RayExecutor",
    "slurm": "benchmark.grid.slurm:SlurmExecutor",
}


@dataclass(frozen=True)
class Options:
    """What the user asks of an executor."""

    results: Path
    """The folder of the records."""
    processes: int = 1
    """Processes of a run, each with a GPU of its own where there are any."""
    fresh: bool = False
    """Discard finished records and checkpoints of the runs that are asked for."""
    jobs: int | None = None
    """Concurrent runs at most; None is one on this machine, and as many as there is room for on a cluster."""
    cpus: int | None = None
    """CPUs of a run on a cluster; None is one a process. On this machine runs share the CPUs."""
    address: str | None = None
    """Address of a Ray cluster; None is $RAY_ADDRESS, else a Ray of this machine that ends with the bench."""
    keep_model: bool = False
    """Keep the weights of the chosen epoch beside the record of each run that trains."""
    track: tuple[str, ...] = ()
    """Trackers of experiments to which each run reports."""
    slurm: tuple[str, ...] = ()
    """What a run asks of Slurm, as `key=value` pairs; see `slurm.REQUESTS`."""

    def __post_init__(self) -> None:
        for name, value in (("--processes", self.processes), ("--jobs", self.jobs), ("--cpus", self.cpus)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, got {value}.")


class Executor(Protocol):
    """Executes runs, each in a fresh process, until every one has ended, well or not."""

    def run(self, runs: Sequence[ResolvedRun], later: int = 0) -> dict[ResolvedRun, RunRecord]:
        """Execute `runs`; `later` more will follow, which only the estimate of the time left uses.

        Finished runs are not repeated, and their records are returned. If another bench works on a run in
        the same store, its record is awaited and returned. A run that `failed`, ran out of memory (`oom`),
        was interrupted, or whose process a signal ended (`killed`) has a record too, and the next call tries
        it again. A run that ended with a user's mistake is absent. Ctrl-C and SIGTERM stop the runs, which
        leave their checkpoints, and raise `KeyboardInterrupt`. Raises `UserError`.
        """

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing running."""


def executors() -> dict[str, EntryPoint]:
    """Name -> entry point of every executor; none of them is imported. Built-in ones cannot be replaced."""
    built_in = [EntryPoint(name, target, GROUP) for name, target in BUILT_IN.items()]
    others = [point for point in offered(GROUP) if point.name not in BUILT_IN]
    return {point.name: point for point in (*built_in, *others)}


def make_executor(name: str, options: Options) -> Executor:
    """The executor `name`. Raises `UserError` if there is none, or if it cannot be used here."""
    points = executors()
    if name not in points:
        raise unknown("executor", name, points)
    if options.slurm and name in BUILT_IN and name != "slurm":  # one of another package may submit to it too
        raise UserError(
            f"--slurm {' '.join(options.slurm)} is what runs ask of Slurm, and the executor is {name}; add "
            "--executor slurm, or leave --slurm out."
        )
    try:
        executor: Executor = points[name].load()(options)
    except UserError:
        raise
    except BROKEN as error:
        if name in BUILT_IN:
            raise
        others = ", ".join(other for other in points if other != name)
        raise UserError(
            f"executor '{name}' ({points[name].value}) cannot be used: {one_line(error)}. Repair or "
            f"reinstall its package, or choose another one: {others}."
        ) from error
    return executor


def run_command(spec: RunSpec, options: Options) -> list[str]:
    """The command that executes one run: `python -m benchmark run`, under torchrun for several processes."""
    # not `accelerate launch`: without MPI, `--cpu --num_processes 2` silently starts one process
    several = ["-m", "benchmark.process.launch", "--standalone", "--nproc_per_node", str(options.processes)]
    return [
        sys.executable, *(several if options.processes > 1 else []),
        "-m", "benchmark", "run", "--spec", specs_to_json([spec]), "--results", str(options.results),
        *(["--fresh"] if options.fresh else []),
        *(["--keep-model"] if options.keep_model else []),
        *(["--track", ",".join(options.track)] if options.track else []),
    ]  # fmt: skip
