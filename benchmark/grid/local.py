"""Runs the cells of a grid on this machine, one or several at a time, each in a fresh process.

A fresh process, so that peaks of memory, compilation and a crash never leak from one row into the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

import torch

from benchmark.cell import Cell, resolve_cell
from benchmark.grid.executor import Options
from benchmark.measure import usable_cores
from benchmark.record import RunRecord, finished, read_record
from benchmark.report.tables import print_tables
from methods.errors import UserError

GRACE = 5.0
"""Seconds in which interrupted cells may end by themselves."""


def bench(
    cells: Sequence[Cell], results: Path, processes: int = 1, fresh: bool = False, jobs: int = 1
) -> int:
    """Run what is not finished, `jobs` cells at a time, each in `processes` processes; print all tables.

    Returns 0 where every cell ended well, else 1.
    """
    with LocalExecutor(Options(results, processes, fresh, jobs)) as executor:
        found = executor.run(cells)
    records = [found[cell] for cell in cells if cell in found]
    if records:
        print(print_tables(records))
    failed = len(cells) - sum(record.status == "ok" for record in records)
    if failed:
        _say(f"{failed} of {len(cells)} cells did not finish; the same command tries them again.")
    return 1 if failed else 0


class LocalExecutor:
    """Cells on this machine (see `executor.Executor`)."""

    def __init__(self, options: Options) -> None:
        self.options, gpus = options, torch.cuda.device_count()
        if gpus and options.jobs > 1:
            raise UserError(
                f"--jobs {options.jobs}: cells side by side would share a GPU; leave it out here."
            )
        if gpus and options.processes > gpus:
            raise UserError(
                f"--processes {options.processes}: this machine has {gpus} GPUs; give at most {gpus}."
            )

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def run(self, cells: Sequence[Cell], later: int = 0) -> dict[Cell, RunRecord]:
        """See `executor.Executor.run`."""
        results, fresh = self.options.results, self.options.fresh
        # every mistake is found before the first hour is spent
        paths = {cell: resolve_cell(cell).record_path(results) for cell in cells}
        found = {cell: record for cell, path in paths.items() if not fresh and (record := finished(path))}
        if found:
            _say(f"{len(found)} of {len(cells)} cells are finished already (--fresh runs them anew)")
        waiting = [cell for cell in cells if cell not in found]
        prepare_states(waiting)
        return found | _run_all(waiting, results, self.options.processes, fresh, self.options.jobs)


def _run_all(
    cells: Sequence[Cell], results: Path, processes: int, fresh: bool, jobs: int
) -> dict[Cell, RunRecord]:
    """Run `cells`, `jobs` at a time; the records of those that left one."""
    found: dict[Cell, RunRecord] = {}
    children: list[subprocess.Popen[str]] = []
    begin = time.monotonic()

    def work(number: int) -> None:
        done, cell = len(found), cells[number]
        left = (time.monotonic() - begin) / done * (len(cells) - done) / 60 if done else None
        _say(
            f"[{number + 1}/{len(cells)}] {cell}"
            + (f", about {left:.0f} min left" if left is not None else "")
        )
        label = f"[{number + 1}] " if jobs > 1 else ""
        share = _share_of_machine(jobs, processes)
        record = run_cell(cell, results, processes, fresh, share, label, children.append)
        if record is not None:
            found[cell] = record

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(work, number) for number in range(len(cells))]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            wait(waiting, timeout=GRACE)  # a terminal's ctrl-C reaches the cells too; `kill` does not
            for child in children:
                if child.poll() is None:
                    child.send_signal(signal.SIGINT)
            raise
    return found


def _share_of_machine(jobs: int, processes: int) -> dict[str, str]:
    """Environment of one of `jobs` cells that run side by side: its part of the processor's threads."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // (jobs * processes)))}


def prepare_states(cells: Sequence[Cell]) -> None:
    """Compute the hidden states that the grid reads in one pass a language model, in a process of its own."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.dataset, cell.llm, cell.overrides), []).append(cell)
    for (dataset, llm, overrides), group in groups.items():
        command = ["prepare", "--dataset", dataset, "--llm", llm]
        for option, names in (
            ("--methods", [c.method for c in group]),
            ("--protocols", [c.protocol for c in group]),
        ):
            command += [option, ",".join(dict.fromkeys(names))]
        status = subprocess.run(
            [*_python(), *command, *_set(overrides)], stdout=sys.stderr, check=False
        ).returncode
        if status:
            raise UserError(f"`adaptrec {' '.join(command)}` ended with status {status}; see above.")


def run_cell(
    cell: Cell,
    results: Path,
    processes: int,
    fresh: bool,
    environment: Mapping[str, str] | None = None,
    label: str = "",
    started: Callable[[subprocess.Popen[str]], None] | None = None,
) -> RunRecord | None:
    """One cell in a fresh process (or `processes` of them); its record, or None where it left none.

    `label` is put before each line that the cell says, where several say something at once. `started` gets
    the process that was started.
    """
    command = [
        *_python(processes), "run", "--dataset", cell.dataset, "--llm", cell.llm, "--method", cell.method,
        "--protocol", cell.protocol, "--seed", str(cell.seed), "--results", str(results),
        *_set(cell.overrides), *(["--fresh"] if fresh else []),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE if label else None, text=True,
        env={**os.environ, **(environment or {})},
    ) as child:  # fmt: skip
        if started:
            started(child)
        for line in child.stderr or ():
            _say(label + line.rstrip())
        assert child.stdout is not None
        said = child.stdout.read()
    path = Path(said.strip().rpartition("\n")[2])
    return read_record(path) if path.suffix == ".json" else None


def _python(processes: int = 1) -> list[str]:
    # torchrun: without MPI `accelerate launch --cpu --num_processes 2` starts one process and says nothing
    if processes == 1:
        return [sys.executable, "-m", "benchmark"]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
    ]
    return [*launcher, "-m", "benchmark"]


def _set(overrides: Sequence[str]) -> list[str]:
    return ["--set", *overrides] if overrides else []


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
