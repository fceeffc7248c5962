"""The record of a run that a signal ended, as the system does when memory runs out: it could write none."""

from __future__ import annotations

import signal
from pathlib import Path

from benchmark.grid.child import Child
from benchmark.grid.claims import Stamp, stamp
from benchmark.measure import environment, pick_device
from benchmark.results.record import PeakMemory
from benchmark.results.store import finished
from benchmark.run.spec import RunSpec, resolve_run

GIB = 2**30


def record_killed(cell: RunSpec, path: Path, before: Stamp, processes: int, child: Child) -> str:
    """Write the record of `cell`, whose process `child` a signal ended, to `path`; returns what it says.

    A record that the run itself has written since `before` stays, as does a finished one.
    """
    from benchmark.run.build import pick_precision
    from benchmark.run.describe import blank

    again = "goes on from the last epoch" if path.with_suffix(".checkpoint").exists() else "runs it again"
    error = f"{_reason(child)}; the same command {again}"
    if stamp(path) in (None, before) and finished(path, None) is None:
        resolved, device, peak = resolve_run(cell), pick_device(), child.memory.peak
        where = environment(device, pick_precision(resolved.settings, device), processes)
        record = blank(resolved, where)
        record.status, record.error = "killed", error
        record.cost.peak_memory = {"run": PeakMemory(host=peak)} if peak else {}
        record.write(path)
    return error


def _reason(child: Child) -> str:
    number, peak = -child.process.returncode, child.memory.peak
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "no standard signal"
    why = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
    held = f"; its processes held up to {peak / GIB:.2f} GiB of host memory" if peak else ""
    return f"signal {number} ({name}) ended the process{why}{held}"
