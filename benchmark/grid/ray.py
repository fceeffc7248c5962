"""Runs the cells of a grid on a Ray cluster, each as `python -m benchmark run` in a task of its own.

The store is a folder of the driver. A node that sees it too (a network disk) writes there, so that a cell
whose node is lost goes on from its checkpoint on another one. A node that does not writes into its own cache,
and hands record and ranks to the driver. AdaptRec, data and language models must be on every node.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from benchmark.config import digest
from benchmark.data.paths import cache_folder
from benchmark.files import write_atomically
from benchmark.grid.child import Child, run_command, stop
from benchmark.grid.claims import stamp
from benchmark.grid.engine import Ended, Engine, Task, log_path
from benchmark.grid.executor import Options
from benchmark.grid.killed import record_killed
from benchmark.grid.lifeline import GRACE
from benchmark.grid.prepare import prepare
from benchmark.process import import_path
from benchmark.results.record import BusyError, ranks_path
from benchmark.run.spec import RunSpec, resolve_run
from benchmark.train.told import parse_line
from methods.errors import UserError

RETRIES = 3
"""Times that a cell is given to another node when its own is lost."""
LOOK = 5.0
"""Seconds between two looks at the cluster's nodes."""
ASK = 1.0
"""Seconds between two times that a task asks whether it is to stop."""
POLL = 0.1


@dataclass(frozen=True)
class Order:
    """What a task is told."""

    number: int
    cell: RunSpec
    together: tuple[RunSpec, ...]
    """All cells of its dataset and language model, whose states are computed in one pass."""
    folder: Path
    """The driver's working directory, which relative paths of a cell mean."""
    results: Path
    mark: str
    """Name of a file in `results`: a node that does not see it does not see the store."""
    processes: int
    fresh: bool


@dataclass
class Outcome:
    """What a task gives back."""

    record: bytes | None = None
    ranks: bytes | None = None
    said: list[str] = field(default_factory=list)
    busy: bool = False
    lost_log: str = ""


class RayExecutor(Engine):
    """Cells on a cluster (see `executor.Executor`)."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._ray = _import_ray()
        self._mark = f".{uuid4().hex}.seen"
        self._groups: dict[tuple[str, str], dict[RunSpec, None]] = {}
        self._running: dict[Any, Task] = {}
        self._lines: Any = None
        self._asked: Any = None
        self._looked, self._places = -LOOK, 0
        self._own = False

    def __enter__(self) -> RayExecutor:
        ray = self._ray
        if not ray.is_initialized():
            address = self.options.address or os.environ.get("RAY_ADDRESS") or "local"
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            local = {"include_dashboard": False} if address == "local" else {}
            try:
                with chdir(import_path.ROOT):  # workers import from the folder in which this is called
                    ray.init(address, log_to_driver=False, logging_level="error", **local)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"no Ray cluster answers at {address}: {error}; see --ray-address and $RAY_ADDRESS."
                ) from error
            self._own = True
        if not self._capacity():
            self._leave()
            raise UserError(self._too_large())
        self._show()
        super().__enter__()  # after Ray, which has ideas of its own about SIGTERM
        self._lines = _listener(ray)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        (self.options.results / self._mark).unlink(missing_ok=True)
        self._leave()

    def _leave(self) -> None:
        if self._own:
            self._ray.shutdown()

    def _show(self) -> None:
        """Let nodes see whether they see the store."""
        self.options.results.mkdir(parents=True, exist_ok=True)
        (self.options.results / self._mark).touch()

    def prepare(self, cells: Sequence[RunSpec]) -> None:
        """Each node does it before its first cell."""
        for cell in cells:
            self._groups.setdefault((cell.dataset, cell.llm), {})[cell] = None

    def room(self) -> int:
        """See `Engine.room`. Where no node is left, one cell waits for a new one."""
        if time.monotonic() - self._looked >= LOOK:
            self._looked, self._places = time.monotonic(), self._capacity()
        return self.options.jobs or max(1, self._places)

    def _needs(self) -> dict[str, float]:
        """Resources of a cell."""
        processes = self.options.processes
        gpus = processes if self._ray.cluster_resources().get("GPU") else 0
        return {"CPU": self.options.cpus or processes, "GPU": gpus}

    def _capacity(self) -> int:
        """How many cells the nodes that are alive hold."""
        needs = {name: amount for name, amount in self._needs().items() if amount}
        return sum(
            min(int(node["Resources"].get(name, 0) // amount) for name, amount in needs.items())
            for node in self._ray.nodes()
            if node["Alive"]
        )

    def _too_large(self) -> str:
        needs = " and ".join(f"{amount:g} {name}s" for name, amount in self._needs().items() if amount)
        return f"no node of the Ray cluster has the {needs} of a cell; lower --processes or --cpus."

    def start(self, task: Task) -> None:
        """See `Engine.start`."""
        options, needs = self.options, self._needs()
        if options.fresh:  # here, once: a cell that is given to another node goes on
            task.path.unlink(missing_ok=True)
            shutil.rmtree(task.path.with_suffix(".checkpoint"), ignore_errors=True)
        order = Order(
            task.number,
            task.cell,
            tuple(self._groups.get((task.cell.dataset, task.cell.llm), ())),
            Path.cwd(),
            options.results.resolve(),
            self._mark,
            options.processes,
            options.fresh,
        )
        remote = self._ray.remote(do).options(
            num_cpus=needs["CPU"],
            num_gpus=needs["GPU"],
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
            name=str(task.cell),
        )
        self._running[remote.remote(order, self._lines)] = task

    def ended(self) -> list[Ended]:
        """See `Engine.ended`."""
        if not self._running:
            return []
        self._listen()
        references = list(self._running)
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [self._result(reference, self._running.pop(reference)) for reference in ready]

    def _result(self, reference: Any, task: Task) -> Ended:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Ended(task, [f"Ray: {next(iter(str(error).splitlines()), type(error).__name__)}"])
        if outcome.record is not None:
            if outcome.ranks is not None:
                write_atomically(ranks_path(task.path), outcome.ranks)
            write_atomically(task.path, outcome.record)
        return Ended(task, outcome.said, outcome.busy, outcome.lost_log)

    def _listen(self) -> None:
        """Take what the cells said, without waiting for it."""
        with suppress(self._ray.exceptions.RayError):  # with its node the listener is lost, and no cell
            if self._asked is None:
                self._asked = self._lines.take.remote()
            if self._ray.wait([self._asked], timeout=0)[0]:
                asked, self._asked = self._asked, None
                by_number = {task.number: task.cell for task in self._running.values()}
                for number, line in self._ray.get(asked):
                    if number in by_number:
                        self.tracker.said(by_number[number], line)

    def stop(self) -> None:
        """See `Engine.stop`."""
        # not by `ray.cancel`, which says that a task has ended when it has only been told to
        try:
            if references := list(self._running):
                self._lines.stop.remote()
                ready, _ = self._ray.wait(references, num_returns=len(references), timeout=GRACE + ASK)
                for reference in ready:
                    self._result(reference, self._running.pop(reference))
        finally:
            for reference in self._running:
                self._ray.cancel(reference, force=True)
            self._running.clear()


class Lines:
    """An actor: what cells say on its way to the driver, and the driver's word to stop on its way to them."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, str]] = []
        self._stopped = False

    def put(self, number: int, line: str) -> None:
        """RunSpec `number` said `line`."""
        self._lines.append((number, line))

    def take(self) -> list[tuple[int, str]]:
        """What was said since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def stop(self) -> None:
        """All cells are to stop."""
        self._stopped = True

    def stopped(self) -> bool:
        """Whether they are."""
        return self._stopped


def _listener(ray: Any) -> Any:
    """`Lines` on the driver's node, or where that is lost, on another one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Lines).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--executor ray needs Ray, which is not installed; `pip install 'adaptrec[ray]'` does it."
        ) from error
    return ray


_prepared: set[tuple[RunSpec, ...]] = set()
"""What this process of a node has seen to."""


def do(order: Order, lines: Any) -> Outcome:
    """One cell, on the node that Ray chose."""
    with suppress(OSError):  # a node need not have it: there, relative paths mean a folder of its own
        os.chdir(order.folder)
    shared = (order.results / order.mark).exists()
    store = order.results if shared else _own_store(order)
    path = resolve_run(order.cell).record_path(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    said: list[str] = []

    def listen(line: str) -> None:
        if parse_line(line):
            with suppress(_import_ray().exceptions.RayError):  # it is lost with its node: then nobody listens
                lines.put.remote(order.number, line)

    try:
        if order.together not in _prepared:
            prepare(order.together, said.append)
            _prepared.add(order.together)
    except UserError as error:
        return Outcome(said=[*said, str(error)])
    before = stamp(path)
    child = Child(run_command(order.cell, store, order.processes, fresh=False), log_path(path), listen)
    status, stopped = _watched(child, lines)
    outcome = Outcome(said=list(child.tail), busy=status == BusyError.status, lost_log=child.log.lost)
    if status < 0 and not stopped:
        outcome.said.append(record_killed(order.cell, path, before, order.processes, child))
    return outcome if shared else _moved(path, outcome)


def _watched(child: Child, lines: Any) -> tuple[int, bool]:
    """Wait until `child` has ended, or stop it where the driver says so: -> its exit status, and whether it
    was stopped."""
    ray, asked, stopped = _import_ray(), time.monotonic(), False
    while (status := child.ended()) is None:
        time.sleep(POLL)
        if time.monotonic() - asked >= ASK:
            asked = time.monotonic()
            with suppress(ray.exceptions.RayError):
                if ray.get(lines.stopped.remote()):
                    stopped = True
                    stop([child], GRACE - ASK)
    return status, stopped


def _own_store(order: Order) -> Path:
    """Where a node keeps what a cell writes until the driver has it: checkpoints stay for the next try."""
    which = order.mark if order.fresh else "kept"
    return cache_folder() / "ray" / digest(str(order.results)) / which


def _moved(path: Path, outcome: Outcome) -> Outcome:
    """Record and ranks leave the node."""
    files = (path, ranks_path(path))
    outcome.record, outcome.ranks = (file.read_bytes() if file.exists() else None for file in files)
    for file in files:
        file.unlink(missing_ok=True)
    return outcome
