"""What a machine of a cluster does for one run: it prepares what the run reads, and follows its process."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.grid.child import Exit, RunProcess, stop
from benchmark.grid.engine import ClaimedRun
from benchmark.grid.executor import Options
from benchmark.grid.prepare import prepare
from benchmark.process.exit_status import ExitCode
from benchmark.process.lifeline import GRACE
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.train.status import RunStatus
from methods.errors import UserError

STOP_SECONDS = 1.0
"""Seconds between two times that a node asks whether to stop."""
LATE_SECONDS = 10.0
"""Seconds beyond `GRACE` that a busy node may take to ask, and to write the record of the run."""
POLL = 0.1


@dataclass(frozen=True)
class Order:
    """What a node needs to execute a run."""

    number: int
    spec: RunSpec
    group: tuple[RunSpec, ...]
    """All runs of its dataset and language model, whose states are computed in one pass."""
    folder: Path
    """The driver's working directory, to which relative paths of the run refer."""
    options: Options


class Groups:
    """The runs of each dataset and language model, as a driver has come to know them."""

    def __init__(self) -> None:
        self._specs: dict[tuple[str, str], dict[RunSpec, None]] = {}

    def add(self, runs: Sequence[ResolvedRun]) -> None:
        """More runs, which nodes will prepare before their first one."""
        for run in runs:
            self._specs.setdefault((run.spec.dataset, run.spec.llm), {})[run.spec] = None

    def order(self, task: ClaimedRun, options: Options) -> Order:
        """The order to execute `task`.

        `fresh` removes here, once, what there is of its run: one that is given to another node, or begins
        again, continues.
        """
        if options.fresh:
            task.path.unlink(missing_ok=True)
            shutil.rmtree(task.path.with_suffix(".checkpoint"), ignore_errors=True)
        spec = task.run.spec
        group = tuple(self._specs.get((spec.dataset, spec.llm), ()))
        return Order(
            task.number, spec, group, Path.cwd(), replace(options, results=options.results.resolve())
        )


_prepared: set[tuple[RunSpec, ...]] = set()
"""Groups that this process of a node has prepared."""


def begin(order: Order, store: Path) -> RunProcess | Exit:
    """Start the process of a run, whose record goes to `store`; how it ended where it cannot be started."""
    with suppress(OSError):  # the folder may not exist here: then relative paths are below the node's own
        os.chdir(order.folder)
    lines: list[str] = []
    try:
        run = resolve_run(order.spec)
        if order.group not in _prepared:
            prepare([resolve_run(spec) for spec in order.group], lines.append)
            _prepared.add(order.group)
    except UserError as error:
        return Exit(ExitCode.USER_ERROR, [*lines, str(error)])
    run.record_path(store).parent.mkdir(parents=True, exist_ok=True)
    return RunProcess(run, replace(order.options, results=store, fresh=False))


def follow(
    process: RunProcess, stops: Callable[[], bool], tell: Callable[[RunStatus], None] | None = None
) -> Exit:
    """Wait until `process` has ended, and `tell` its status; stop it where `stops` says so."""
    asked, stopped = time.monotonic(), False
    while (ended := process.exit(stopped)) is None:
        time.sleep(POLL)
        if tell is not None and (status := process.progress()):
            tell(status)
        if time.monotonic() - asked >= STOP_SECONDS:
            asked = time.monotonic()
            if stops():
                stopped = True
                stop([process.child], GRACE - STOP_SECONDS)
    return ended
