"""Execute the runs of a grid on this machine, one or several at a time, each in a fresh process.

With fresh processes, peaks of memory, compilation and a crash of one run do not affect the next one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from benchmark.grid.child import GIB, Exit, RunProcess, stop
from benchmark.grid.engine import ClaimedRun, Engine
from benchmark.grid.executor import Options
from benchmark.grid.memory import Held, MemoryPlan
from benchmark.grid.prepare import prepare
from benchmark.measure import usable_cores
from benchmark.process.memory import available_memory
from benchmark.run.spec import ResolvedRun
from methods.errors import UserError


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def slots(gpus: Sequence[str], processes: int, jobs: int) -> list[tuple[str, ...]]:
    """The GPUs of each of `jobs` concurrent runs; none on a CPU. Raises `UserError` for too few."""
    if not gpus:
        return [()] * jobs
    if processes > len(gpus):
        raise UserError(
            f"--processes {processes}: this machine has {len(gpus)} GPUs; give at most {len(gpus)}."
        )
    if jobs * processes > len(gpus):
        raise UserError(
            f"--jobs {jobs} with --processes {processes} needs {jobs * processes} GPUs, since runs do not "
            f"share one: this machine has {len(gpus)}; give --jobs {len(gpus) // processes} at most."
        )
    return [tuple(gpus[job * processes : (job + 1) * processes]) for job in range(jobs)]


class LocalExecutor(Engine):
    """Runs on this machine (see `executor.Executor`)."""

    def __init__(self, options: Options, gpus: Sequence[str] | None = None) -> None:
        super().__init__(options)
        self._jobs = options.jobs or 1
        self._free = slots(visible_gpus() if gpus is None else gpus, options.processes, self._jobs)
        self._running: dict[ClaimedRun, tuple[RunProcess, tuple[str, ...]]] = {}
        self._memory, self._measured = MemoryPlan(), set[ClaimedRun]()
        self._waits = False

    def prepare(self, runs: Sequence[ResolvedRun]) -> None:
        """See `Engine.prepare`."""
        prepare(runs, self.board.print)

    def room(self) -> int:
        """See `Engine.room`."""
        return self._jobs

    def fits(self, run: ResolvedRun) -> bool:
        """Whether host memory is left for it, by measured peaks."""
        running = {
            task.run: Held(process.child.memory.peak or 0, process.child.memory.now, task in self._measured)
            for task, (process, _) in self._running.items()
        }
        free = available_memory()
        fits = self._memory.fits(run, running, free)
        if not fits and not self._waits and self._measured.issuperset(self._running):
            self._waits = True
            self.board.print(
                f"{free / GIB:.1f} GiB of host memory are free: {run} and others wait until runs beside them "
                "end, by the peaks of those that were measured"
            )
        return fits

    def start(self, task: ClaimedRun) -> None:
        """See `Engine.start`."""
        slot = self._free.pop(0)
        variables = share_of_machine(slot, self._jobs, self.options.processes)
        self._running[task] = RunProcess(task.run, self.options, variables), slot

    def ended(self) -> list[tuple[ClaimedRun, Exit]]:
        """See `Engine.ended`."""
        exits = []
        for task, (process, slot) in list(self._running.items()):
            if status := process.progress():
                self.tracker.update(task.run.spec, status)
                self._measured.add(task)
            if task in self._measured:
                self._memory.learn(task.run, process.child.memory.peak)
            if (ended := process.exit()) is not None:
                self._memory.learn(task.run, process.child.memory.peak)
                del self._running[task]
                self._free.append(slot)
                exits.append((task, ended))
        return exits

    def stop(self) -> None:
        """See `Engine.stop`."""
        processes = [process for process, _ in self._running.values()]
        stop([process.child for process in processes])
        for process in processes:
            process.clean_up()
        self._running.clear()


def share_of_machine(gpus: Sequence[str], jobs: int, processes: int) -> dict[str, str]:
    """Environment variables of one of `jobs` concurrent runs: its GPUs and its part of the cores."""
    share = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        share["OMP_NUM_THREADS"] = str(max(1, usable_cores() // (jobs * processes)))
    return share
