"""Runs the cells of a grid on this machine, one after another, each in a fresh process.

A fresh process, so that peaks of memory, compilation and a crash never leak from one row into the next.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmark.cell import Cell, resolve_cell
from benchmark.record import RunRecord, finished, read_record
from benchmark.report.tables import print_tables
from methods.errors import UserError


def bench(cells: Sequence[Cell], results: Path, processes: int = 1, fresh: bool = False) -> int:
    """Run what is not finished, print the tables of all `cells`; 0 where every cell ended well, else 1."""
    if processes < 1:
        raise UserError(f"--processes must be 1 or more, got {processes}.")
    # every mistake is found before the first hour is spent
    paths = {cell: resolve_cell(cell).record_path(results) for cell in cells}
    found = {cell: record for cell, path in paths.items() if not fresh and (record := finished(path))}
    if found:
        _say(f"{len(found)} of {len(cells)} cells are finished already (--fresh runs them anew)")
    waiting = [cell for cell in cells if cell not in found]
    prepare_states(waiting)
    spent = 0.0
    for number, cell in enumerate(waiting):
        left = f", about {spent / number * (len(waiting) - number) / 60:.0f} min left" if number else ""
        _say(f"[{number + 1}/{len(waiting)}] {cell}{left}")
        begin = time.monotonic()
        record = run_cell(cell, results, processes, fresh)
        spent += time.monotonic() - begin
        if record is not None:
            found[cell] = record
    records = [found[cell] for cell in cells if cell in found]
    if records:
        print(print_tables(records))
    failed = len(cells) - sum(record.status == "ok" for record in records)
    if failed:
        _say(f"{failed} of {len(cells)} cells did not finish; the same command tries them again.")
    return 1 if failed else 0


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


def run_cell(cell: Cell, results: Path, processes: int, fresh: bool) -> RunRecord | None:
    """One cell in a fresh process (or `processes` of them); its record, or None where it left none."""
    command = [
        *_python(processes), "run", "--dataset", cell.dataset, "--llm", cell.llm, "--method", cell.method,
        "--protocol", cell.protocol, "--seed", str(cell.seed), "--results", str(results),
        *_set(cell.overrides), *(["--fresh"] if fresh else []),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    path = Path(done.stdout.strip().rpartition("\n")[2])
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
