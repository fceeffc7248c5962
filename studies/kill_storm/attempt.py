"""Run a command to its end, or kill it, its child or all of its processes at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import psutil

from studies.common.chain import PROGRAM
from studies.common.copies import Copy
from studies.kill_storm.hook.sitecustomize import watch_by_environment

HOOK = Path(__file__).parent / "hook"
WIDTH = 256
"""Bytes of an operation's line in the file that the hook writes."""
SHORT, LONG = 0.005, 0.1
"""Seconds between two looks at the file, and at the processor time of a tree, which takes milliseconds."""
Target = Literal["tree", "child", "parent"]


@dataclass(frozen=True)
class Kill:
    """One SIGKILL that is to come."""

    how: Literal["moment", "operation"]
    """By time, or just before a file operation."""
    target: Target
    at: float
    """CPU seconds of the command and its children, which the load of the machine does not change, or the
    number of the operation, from 1. In a stage of a command both count from its first operation, and seconds
    are those of the clock: a stage may be shorter than the system's steps of processor time."""

    def stops_at(self, begins: str) -> int:
        """The number of the operation at which a process stops itself; 0 where none does."""
        return int(self.at) if self.how == "operation" else int(bool(begins))


class Operation(NamedTuple):
    """A file operation that a process was about to do."""

    pid: int
    time: float
    """Of the monotonic clock, in seconds."""
    event: str
    path: str

    @property
    def name(self) -> str:
        """What regular expressions of stages match."""
        return f"{self.event} {self.path}"


def first_of(operations: Sequence[Operation], pattern: str) -> int:
    """Index of the first operation that `pattern` matches; their number where none does."""
    found = (n for n, operation in enumerate(operations) if re.search(pattern, operation.name))
    return next(found, len(operations))


@dataclass
class Attempt:
    """How a command ended."""

    log: Path
    """What it and its children wrote to the terminal."""
    status: int | None = None
    """Exit status, of a signal its negative number; None where it did not end in time."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the command and of all children that ended before it."""
    killed: str | None = None
    """tree, child, parent, or process where the command had no child; None where it ended before the kill."""
    at: str = ""
    """When the kill came, in words."""
    killed_pids: set[int] = field(default_factory=set)
    orphans: list[psutil.Process] = field(default_factory=list)
    """Children that the kill of their parent left; they have to end by themselves."""
    operations: list[Operation] = field(default_factory=list)

    def uncertain(self) -> Counter[Operation]:
        """Operations that a killed process had announced and may not have done."""
        last = {operation.pid: operation for operation in self.operations}
        return Counter(operation for pid, operation in last.items() if pid in self.killed_pids)


class Started(Protocol):
    """A process that runs a command."""

    pid: int

    def poll(self) -> int | None:
        """Its exit status, of a signal the negative number; None while it runs."""

    def wait(self) -> int:
        """Wait for its end."""


Start = Callable[[Sequence[str], Path, Path, Mapping[str, str]], Started]
"""Starts a command: its words, its folder, its log, its further variables."""


def in_process(words: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> Started:
    """Start any command."""
    with log.open("wb") as out:
        return subprocess.Popen(
            words, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, **environment},
        )  # fmt: skip


def in_copy(words: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> Started:
    """Start a command of `adaptrec` in a copy of this process; those that it starts are none."""
    return Copy(words[len(PROGRAM) :], folder, log, environment, watch_by_environment)


def attempt(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str], limit: float,
    kill: Kill | None = None, begins: str = "", start: Start = in_process,
) -> Attempt:  # fmt: skip
    """Run `command` in `folder` and kill it as `kill` says; at most `limit` seconds.

    `begins` matches the first operation of the stage that is meant; empty for the whole command.
    """
    file = log.with_suffix(".operations")
    file.touch()
    path = os.pathsep.join(part for part in (str(HOOK), os.environ.get("PYTHONPATH", "")) if part)
    stop = kill.stops_at(begins) if kill else 0
    own = {
        "PYTHONPATH": path, "STORM_FOLDER": str(folder), "STORM_OPERATIONS": str(file),
        "STORM_BEGINS": begins, "STORM_STOP_AT": str(stop),
    }  # fmt: skip
    done = Attempt(log)
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = start(command, folder, log, {**environment, **own})
    root = psutil.Process(process.pid)
    try:
        while process.poll() is None and time.monotonic() - begin < limit:
            if kill and done.killed is None and (due := _due(kill, root, file, begins)) is not None:
                _strike(kill, root, done, due)
            time.sleep(SHORT if stop else LONG)
        done.status = process.poll()
    finally:
        if process.poll() is None:
            for child in (*_children(root), root):
                _signal(child, signal.SIGKILL)
        process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    done.seconds = time.monotonic() - begin
    done.cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    done.operations = read_operations(file)
    return done


def read_operations(file: Path) -> list[Operation]:
    """The operations that the hook wrote."""
    rows = (line.split(None, 3) for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return [Operation(int(pid), float(at), event, path.rstrip()) for pid, at, event, path in rows]


def _due(
    kill: Kill, root: psutil.Process, file: Path, begins: str
) -> tuple[psutil.Process | None, str] | None:
    """Whether the kill is due: the process that stopped for it, if one did, and the moment in words."""
    stop = kill.stops_at(begins)
    if not stop:
        spent = _cpu_seconds(root)
        return (None, f"{spent:.2f} s of processor time") if spent >= kill.at else None
    operations = read_operations(file) if file.stat().st_size >= stop * WIDTH else []
    number = stop + (first_of(operations, begins) if begins else 0)
    if len(operations) < number:
        return None
    operation = operations[number - 1]
    try:
        process = psutil.Process(operation.pid)
        if process.status() != psutil.STATUS_STOPPED:
            return None
    except psutil.NoSuchProcess:  # a kill from outside
        return None
    if kill.how == "moment":
        process.send_signal(signal.SIGCONT)
        time.sleep(kill.at)
        return None, f"{kill.at:.3f} s after {operation.name}"
    return process, f"operation {number}, {operation.name}"


def _strike(kill: Kill, root: psutil.Process, done: Attempt, due: tuple[psutil.Process | None, str]) -> None:
    process, done.at = due
    children = _children(root)
    if kill.target == "child" and children:
        done.killed, victims = "child", children[:1]
    elif kill.target == "parent" and children:
        done.killed, victims = "parent", [root]
        done.orphans = children
    else:
        _signal(root, signal.SIGSTOP)  # so that it does not see its children end
        victims = [*_children(root), root]
        done.killed = "tree" if len(victims) > 1 else "process"
    done.killed_pids = {victim.pid for victim in victims}
    for victim in victims:
        _signal(victim, signal.SIGKILL)
    if process is not None and process not in victims:
        _signal(process, signal.SIGCONT)


def _cpu_seconds(root: psutil.Process) -> float:
    """Of a process and its children, those included that have ended."""
    spent = 0.0
    for process in (root, *_children(root)):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:4])  # user, system, and of children that ended
    return spent


def _children(root: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in root.children(recursive=True) if _runs(child)]
    return []


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended. A zombie, which psutil still lists, has."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def alive(processes: Sequence[psutil.Process], wait: float) -> list[psutil.Process]:
    """Those that still run after at most `wait` seconds."""
    end = time.monotonic() + wait
    while left := [process for process in processes if _runs(process)]:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return left
