"""Execute the runs of a grid on a Ray cluster, each as `python -m benchmark run` in a task of its own.

The store is a folder of the driver. A node that sees it too (a network disk) writes there, so that a run
whose node is lost continues from its checkpoint on another one. A node that does not see it writes into its
own cache, and returns the files of a run to the driver. AdaptRec, data and language models must be on every
node.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from benchmark.config import digest
from benchmark.files import cache_folder, write_atomically
from benchmark.grid.child import Exit
from benchmark.grid.engine import ClaimedRun, Engine
from benchmark.grid.executor import Options
from benchmark.grid.node import LATE_SECONDS, STOP_SECONDS, Groups, Order, begin, follow
from benchmark.process import startup
from benchmark.process.exit_status import ExitCode
from benchmark.process.lifeline import GRACE
from benchmark.results.record import files_of_run
from benchmark.run.spec import ResolvedRun
from benchmark.train.status import RunStatus
from methods.errors import UserError

RETRIES = 3
"""Times that a run is given to another node when its own is lost."""
NODES_SECONDS = 5.0
"""Seconds between two looks at the nodes of the cluster."""


@dataclass
class Outcome:
    """What a node returns."""

    exit: Exit
    files: tuple[bytes | None, ...] = ()
    """The files of the run in the order of `files_of_run`; none where the driver sees them itself."""


class RayExecutor(Engine):
    """Runs on a cluster (see `executor.Executor`)."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._ray = _import_ray()
        self._mark = f".{uuid4().hex}.seen"
        self._groups = Groups()
        self._running: dict[Any, ClaimedRun] = {}
        self._mailbox: Any = None
        self._asked: Any = None
        self._counted, self._places = -NODES_SECONDS, 0
        self._own = False

    def __enter__(self) -> RayExecutor:
        ray = self._ray
        if not ray.is_initialized():
            address = self.options.address or os.environ.get("RAY_ADDRESS") or "local"
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            local = {"include_dashboard": False} if address == "local" else {}
            try:
                with chdir(startup.ROOT):  # workers import from the folder in which this is called
                    ray.init(address, log_to_driver=False, logging_level="error", **local)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"no Ray cluster answers at {address}: {error}; see --ray-address and $RAY_ADDRESS."
                ) from error
            self._own = True
        if not self._capacity():
            self._leave()
            raise UserError(self._too_large())
        self.mark_store()
        super().__enter__()  # after Ray, which sets a handler of SIGTERM too
        self._mailbox = _mailbox(ray)
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

    def mark_store(self) -> None:
        """Write the file by which nodes know whether they see the store."""
        self.options.results.mkdir(parents=True, exist_ok=True)
        (self.options.results / self._mark).touch()

    def prepare(self, runs: Sequence[ResolvedRun]) -> None:
        """Each node does it before its first run."""
        self._groups.add(runs)

    def room(self) -> int:
        """See `Engine.room`. Where no node is left, one run waits for a new one."""
        if time.monotonic() - self._counted >= NODES_SECONDS:
            self._counted, self._places = time.monotonic(), self._capacity()
        return self.options.jobs or max(1, self._places)

    def _needs(self) -> dict[str, float]:
        """Resources of a run."""
        processes = self.options.processes
        gpus = processes if self._ray.cluster_resources().get("GPU") else 0
        return {"CPU": self.options.cpus or processes, "GPU": gpus}

    def _capacity(self) -> int:
        """How many runs the live nodes have resources for."""
        needs = {name: amount for name, amount in self._needs().items() if amount}
        return sum(
            min(int(node["Resources"].get(name, 0) // amount) for name, amount in needs.items())
            for node in self._ray.nodes()
            if node["Alive"]
        )

    def _too_large(self) -> str:
        needs = " and ".join(f"{amount:g} {name}s" for name, amount in self._needs().items() if amount)
        return f"no node of the Ray cluster has the {needs} of a run; lower --processes or --cpus."

    def start(self, task: ClaimedRun) -> None:
        """See `Engine.start`."""
        needs, order = self._needs(), self._groups.order(task, self.options)
        remote = self._ray.remote(execute).options(
            num_cpus=needs["CPU"],
            num_gpus=needs["GPU"],
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
            name=str(task.run.spec),
        )
        self._running[remote.remote(order, self._mark, self._mailbox)] = task

    def ended(self) -> list[tuple[ClaimedRun, Exit]]:
        """See `Engine.ended`."""
        if not self._running:
            return []
        self._update()
        references = list(self._running)
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [self._result(reference, self._running.pop(reference)) for reference in ready]

    def _result(self, reference: Any, task: ClaimedRun) -> tuple[ClaimedRun, Exit]:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            return task, Exit(ExitCode.FAILED, [f"Ray: {first}"])
        if outcome.files and outcome.files[-1] is not None:
            for file, data in zip(files_of_run(task.path), outcome.files, strict=True):
                if data is not None:
                    write_atomically(file, data)
        return task, outcome.exit

    def _update(self) -> None:
        """Hand on the status of the runs, without waiting for it."""
        with suppress(self._ray.exceptions.RayError):  # with its node the mailbox is lost, and no run
            if self._asked is None:
                self._asked = self._mailbox.take.remote()
            if self._ray.wait([self._asked], timeout=0)[0]:
                asked, self._asked = self._asked, None
                specs = {task.number: task.run.spec for task in self._running.values()}
                for number, status in self._ray.get(asked).items():
                    if number in specs:
                        self.tracker.update(specs[number], status)

    def stop(self) -> None:
        """See `Engine.stop`."""
        # not by `ray.cancel`, which reports a task as ended when it has only been asked to end
        try:
            end = time.monotonic() + GRACE + LATE_SECONDS
            while (references := list(self._running)) and time.monotonic() < end:
                with suppress(self._ray.exceptions.RayError):
                    self._mailbox.stop.remote()  # each time: a mailbox on a new node forgets
                ready, _ = self._ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)
                for reference in ready:
                    self._result(reference, self._running.pop(reference))
        finally:
            for reference in self._running:
                self._ray.cancel(reference, force=True)
            self._running.clear()


class Mailbox:
    """An actor that carries the status of runs to the driver, and its request to stop to the runs."""

    def __init__(self) -> None:
        self._statuses: dict[int, RunStatus] = {}
        self._stopped = False

    def put(self, number: int, status: RunStatus) -> None:
        """The newest status of run `number`."""
        self._statuses[number] = status

    def take(self) -> dict[int, RunStatus]:
        """Number -> status of the runs that have a new one since the last call."""
        statuses, self._statuses = self._statuses, {}
        return statuses

    def stop(self) -> None:
        """Ask all runs to stop."""
        self._stopped = True

    def stopped(self) -> bool:
        """Whether runs are to stop."""
        return self._stopped


def _mailbox(ray: Any) -> Any:
    """A `Mailbox` on the driver's node, or if that is lost, on another one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--executor ray needs Ray, which is not installed; `pip install 'adaptrec[ray]'` does it."
        ) from error
    return ray


def execute(order: Order, mark: str, mailbox: Any) -> Outcome:
    """Execute one run on the node that Ray chose; one that does not see the file `mark` in the store does not
    see the store."""
    shared = (order.options.results / mark).exists()
    store = order.options.results if shared else _own_store(order, mark)
    process = begin(order, store)
    if isinstance(process, Exit):
        return Outcome(process)
    ray = _import_ray()

    def tell(status: RunStatus) -> None:
        with suppress(ray.exceptions.RayError):  # the mailbox is lost with its node: then no process reads it
            mailbox.put.remote(order.number, status)

    def stops() -> bool:
        with suppress(ray.exceptions.RayError):
            return bool(ray.get(mailbox.stopped.remote()))
        return False

    outcome = Outcome(follow(process, stops, tell))
    return outcome if shared else _moved(process.path, outcome)


def _own_store(order: Order, mark: str) -> Path:
    """Where a node keeps what a run writes until the driver has it: checkpoints stay for the next try."""
    attempt = mark if order.options.fresh else "kept"
    return cache_folder() / "ray" / digest(str(order.options.results)) / attempt


def _moved(path: Path, outcome: Outcome) -> Outcome:
    """Put the files of the run into `outcome` and remove them from the node."""
    files = files_of_run(path)
    outcome.files = tuple(file.read_bytes() if file.exists() else None for file in files)
    for file in files:
        file.unlink(missing_ok=True)
    return outcome
