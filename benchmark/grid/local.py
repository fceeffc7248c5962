"""Runs the cells of a grid on this machine, one or several at a time, each in a fresh process.

A fresh process, so that peaks of memory, compilation and a crash never leak from one row into the next.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from benchmark.grid.child import Child, run_command, stop
from benchmark.grid.engine import Ended, Engine, Task, log_path
from benchmark.grid.executor import Options
from benchmark.grid.killed import record_killed
from benchmark.grid.prepare import prepare
from benchmark.measure import usable_cores
from benchmark.results.record import BusyError
from benchmark.run.spec import RunSpec
from methods.errors import UserError


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def slots(gpus: Sequence[str], processes: int, jobs: int) -> list[tuple[str, ...]]:
    """For each of `jobs` cells that run side by side, its own GPUs; none at all on a CPU.

    Raises `UserError` where there are too few.
    """
    if not gpus:
        return [()] * jobs
    if processes > len(gpus):
        raise UserError(
            f"--processes {processes}: this machine has {len(gpus)} GPUs; give at most {len(gpus)}."
        )
    if jobs * processes > len(gpus):
        raise UserError(
            f"--jobs {jobs} with --processes {processes} wants {jobs * processes} GPUs, since cells do not "
            f"share one: this machine has {len(gpus)}; give --jobs {len(gpus) // processes} at most."
        )
    return [tuple(gpus[job * processes : (job + 1) * processes]) for job in range(jobs)]


class LocalExecutor(Engine):
    """Cells on this machine (see `executor.Executor`)."""

    def __init__(self, options: Options, gpus: Sequence[str] | None = None) -> None:
        super().__init__(options)
        jobs = options.jobs or 1
        self._free = slots(visible_gpus() if gpus is None else gpus, options.processes, jobs)
        self._jobs = jobs
        self._running: dict[Task, tuple[Child, tuple[str, ...]]] = {}

    def prepare(self, cells: Sequence[RunSpec]) -> None:
        """See `Engine.prepare`."""
        prepare(cells, self.board.say)

    def room(self) -> int:
        """See `Engine.room`."""
        return self._jobs

    def start(self, task: Task) -> None:
        """See `Engine.start`."""
        slot = self._free.pop(0)
        options, tracker = self.options, self.tracker
        command = run_command(task.cell, options.results, options.processes, options.fresh)
        child = Child(
            command,
            log_path(task.path),
            lambda line: tracker.said(task.cell, line),
            share_of_machine(slot, self._jobs, options.processes),
        )
        self._running[task] = child, slot

    def ended(self) -> list[Ended]:
        """See `Engine.ended`."""
        found = []
        for task, (child, slot) in list(self._running.items()):
            if (status := child.ended()) is not None:
                del self._running[task]
                self._free.append(slot)
                found.append(self._end(task, child, status))
        return found

    def _end(self, task: Task, child: Child, status: int) -> Ended:
        said = list(child.tail)
        if status < 0:
            said.append(record_killed(task.cell, task.path, task.before, self.options.processes, child))
        return Ended(task, said, status == BusyError.status, child.log.lost)

    def stop(self) -> None:
        """See `Engine.stop`."""
        stop([child for child, _ in self._running.values()])
        self._running.clear()


def share_of_machine(gpus: Sequence[str], jobs: int, processes: int) -> dict[str, str]:
    """Environment of one of `jobs` cells that run side by side: its GPUs and its part of the processor."""
    share = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        share["OMP_NUM_THREADS"] = str(max(1, usable_cores() // (jobs * processes)))
    return share
