"""Execute the runs of a grid as jobs of Slurm, by submitit, each as `python -m benchmark run` in a job.

The bench runs where `sbatch` can be called. Its store, data, language models and the installation are on
disks that all nodes see, as home folders of a cluster are. A job that is preempted, or whose time is up,
stops its run, which leaves a checkpoint, and is put into the queue again.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from benchmark.grid.child import Exit, RunProcess, stop
from benchmark.grid.engine import ClaimedRun, Engine
from benchmark.grid.executor import Options
from benchmark.grid.node import LATE_SECONDS, Groups, Order, begin, follow
from benchmark.process import startup
from benchmark.process.exit_status import ExitCode
from benchmark.process.lifeline import GRACE
from benchmark.run.spec import ResolvedRun
from benchmark.train.status import StatusFile
from methods.errors import UserError, unknown

NAME = "adaptrec"
"""Of the jobs, in the queue."""
FOLDER = ".slurm"
"""Below the results: what submitit and the jobs write, until the bench ends."""
LOOK_SECONDS = 1.0
"""Seconds between two looks at the jobs."""
MOST_JOBS = 1_000
"""Runs that are in the queue at a time: Slurm's usual limit of an array."""
MINUTES = 24 * 60
"""Time limit of a job that no `time` sets."""
REQUEUES = 100
"""Times that a job whose time was up goes on."""
STOP_FILE = "stop"
"""In the folder of a bench: its jobs are to stop."""
_ENDED_WELL = ("COMPLETED", "FINISHED", "DONE")
"""States of jobs that left a result, as Slurm and submitit's executors of one machine name them."""


def minutes(text: str) -> int:
    """`90` minutes, `4:00:00` or `1-12:00:00`, in minutes."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d+):(\d+)|(\d+))", text)
    if not found:
        raise ValueError("minutes, or [DAYS-]HOURS:MINUTES:SECONDS")
    days, hours, mins, seconds, alone = (int(part or 0) for part in found.groups())
    return max(1, alone or (days * 24 + hours) * 60 + mins + (seconds > 0))


def gigabytes(text: str) -> float:
    """`32G`, `500M` or `1T`, in GB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])B?", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise ValueError("a size such as 32G")
    return float(found[1]) * {"M": 1 / 1024, "G": 1.0, "T": 1024.0}[found[2].upper()]


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise ValueError("a whole number above 0")
    return int(text)


def word(text: str) -> str:
    """Any text but none."""
    if not text:
        raise ValueError("a name")
    return text


REQUESTS: dict[str, tuple[str, Callable[[str], object]]] = {
    "partition": ("slurm_partition", word),
    "account": ("slurm_account", word),
    "qos": ("slurm_qos", word),
    "constraint": ("slurm_constraint", word),
    "gpus": ("gpus_per_node", count),
    "time": ("timeout_min", minutes),
    "mem": ("mem_gb", gigabytes),
    "array": ("slurm_array_parallelism", count),
}
"""Key of `--slurm` -> submitit's name of it, and how its value is read."""


def parameters(options: Options) -> dict[str, Any]:
    """What a job asks for, as submitit names it. Raises `UserError` for a key or value that cannot be."""
    found: dict[str, Any] = {
        "name": NAME,
        "timeout_min": MINUTES,
        "cpus_per_task": options.cpus or options.processes,
        "slurm_setup": [f"export {name}={shlex.quote(path)}" for name, path in startup.environment().items()],
    }
    for pair in options.slurm:
        key, _, value = pair.partition("=")
        if key not in REQUESTS:
            raise unknown("key of --slurm:", key, REQUESTS)
        name, read = REQUESTS[key]
        try:
            found[name] = read(value)
        except ValueError as error:
            raise UserError(f"--slurm {key} must be {error}, got '{value}'.") from error
    if 0 < found.get("gpus_per_node", 0) < options.processes:
        raise UserError(
            f"--processes {options.processes} needs a GPU for each; --slurm gpus={found['gpus_per_node']} is "
            f"fewer; give gpus={options.processes}."
        )
    return found


class SlurmExecutor(Engine):
    """Runs as jobs of Slurm (see `executor.Executor`); `cluster` is submitit's name of what takes them."""

    def __init__(self, options: Options, cluster: str = "slurm") -> None:
        super().__init__(options)
        self._submitit, self._cluster = _import_submitit(), cluster
        self._parameters = parameters(options)
        self._folder = options.results.absolute() / FOLDER / uuid4().hex
        self._groups = Groups()
        self._waiting: list[tuple[ClaimedRun, Job]] = []
        self.jobs: dict[ClaimedRun, Any] = {}
        """Those in the queue and those that run, as submitit has them."""
        self._status: dict[ClaimedRun, StatusFile] = {}
        self._looked, self._keep = -LOOK_SECONDS, False

    def __enter__(self) -> SlurmExecutor:
        try:
            self._queue = self._submitit.AutoExecutor(
                self._folder, cluster=self._cluster, slurm_max_num_timeout=REQUEUES
            )
        except RuntimeError as error:
            raise UserError(
                "--executor slurm must be called where Slurm's commands are (srun, sbatch, sacct, scancel), "
                f"such as on a login node: {error}"
            ) from error
        self._queue.update_parameters(**self._parameters)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):  # another bench uses it, or it was never made
                self._folder.parent.rmdir()

    def prepare(self, runs: Sequence[ResolvedRun]) -> None:
        """Each job does it before its run; of several that need the same states one computes them."""
        self._groups.add(runs)

    def room(self) -> int:
        """See `Engine.room`. How many run at a time is for Slurm, and the key `array`, to say."""
        return self.options.jobs or MOST_JOBS

    def start(self, task: ClaimedRun) -> None:
        """See `Engine.start`. What is started before the next call of `ended` becomes one array."""
        job = Job(self._groups.order(task, self.options), self._folder / STOP_FILE)
        self._status[task] = StatusFile(task.path.with_suffix(".status"))
        self._waiting.append((task, job))

    def _submit(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        with _uninterrupted():
            try:
                with self._queue.batch():
                    jobs = [self._queue.submit(job) for _, job in waiting]
            except (self._submitit.core.utils.FailedJobError, OSError) as error:
                raise UserError(f"Slurm does not take the jobs: {_last_line(error)}") from error
            self.jobs |= {task: job for (task, _), job in zip(waiting, jobs, strict=True)}
        numbers = jobs[0].job_id if len(jobs) == 1 else f"{jobs[0].job_id} to {jobs[-1].job_id}"
        self.board.print(f"{len(jobs)} runs are in the queue ({numbers})")

    def ended(self) -> list[tuple[ClaimedRun, Exit]]:
        """See `Engine.ended`."""
        self._submit()
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return []
        self._looked, exits = time.monotonic(), []
        for task, job in list(self.jobs.items()):
            if status := next(reversed(self._status[task].read()), None):
                self.tracker.update(task.run.spec, status)
            if job.done():
                exits.append((task, self._exit_of(job)))
                del self.jobs[task], self._status[task]
        return exits

    def _exit_of(self, job: Any) -> Exit:
        """How the run of a job ended, or why there is no telling."""
        try:
            if job.paths.result_pickle.exists() or (state := job.state) in _ENDED_WELL:
                found: Exit = job.result()
                return found
            why = f"its state is {state}"
        except self._submitit.core.utils.UncompletedJobError as error:
            why = _last_line(error)
        self._keep = True
        return Exit(
            ExitCode.FAILED, [f"Slurm: job {job.job_id} left no result: {why}; see {job.paths.stderr}"]
        )

    def stop(self) -> None:
        """See `Engine.stop`. Jobs that began leave their checkpoints; others are taken from the queue."""
        self._waiting.clear()
        begun = [job for job in self.jobs.values() if job.paths.stdout.exists()]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / STOP_FILE).touch()
            for job in self.jobs.values():
                if job not in begun:
                    job.cancel(check=False)
            end = time.monotonic() + GRACE + LATE_SECONDS
            while time.monotonic() < end and not all(job.done() for job in begun):
                time.sleep(0.1)
        finally:
            for job in begun:
                if not job.done():
                    job.cancel(check=False)
            self.jobs.clear()


class Job:
    """What a job does, as submitit calls it: it executes one run."""

    def __init__(self, order: Order, stop_file: Path) -> None:
        self._order, self._stop_file = order, stop_file
        self._process: RunProcess | None = None

    def __call__(self) -> Exit:
        """Execute the run, or continue it."""
        if self._stop_file.exists():
            return Exit(ExitCode.INTERRUPTED)
        process = begin(self._order, self._order.options.results)
        if isinstance(process, Exit):
            return process
        self._process = process
        try:
            return follow(process, self._stop_file.exists)
        except BaseException:  # the job is cancelled, or begins again
            self._end()
            raise

    def checkpoint(self) -> Any:
        """Stop the run, since the job is preempted or its time is up: -> what to do when it begins again."""
        self._end()
        return _import_submitit().helpers.DelayedSubmission(Job(self._order, self._stop_file))

    def _end(self) -> None:
        if self._process is not None:
            stop([self._process.child])
            self._process.clean_up()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off ctrl-C and SIGTERM until the block ends: a job that Slurm took must be known, to be stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "--executor slurm needs submitit, which is not installed; `pip install 'adaptrec[slurm]'` does "
            "it."
        ) from error
    return submitit


def _last_line(error: Exception) -> str:
    """What an error of many lines ends with."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)
