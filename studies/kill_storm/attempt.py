"""Run a command to its end, or kill it, its child or all of its processes at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

HOOK = Path(__file__).parent / "hook"
WIDTH = 256
"""Bytes of an operation's line in the file that the hook writes."""
POLL = {"moment": 0.05, "operation": 0.005}
"""Seconds between two looks; adding up the processor time of a tree takes some milliseconds."""
Target = Literal["tree", "child", "parent"]


@dataclass(frozen=True)
class Kill:
    """One SIGKILL that is to come."""

    how: Literal["moment", "operation"]
    """By processor time, which the load of the machine does not change, or just before a file operation."""
    target: Target
    at: float
    """CPU seconds of the command and its children, or the number of the operation, from 1."""


class Operation(NamedTuple):
    """A file operation that a process was about to do."""

    pid: int
    event: str
    path: str


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


def attempt(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str], limit: float,
    kill: Kill | None = None,
) -> Attempt:  # fmt: skip
    """Run `command` in `folder` and kill it as `kill` says; at most `limit` seconds."""
    file = log.with_suffix(".operations")
    file.touch()
    stop = {"STORM_STOP_AT": str(int(kill.at))} if kill and kill.how == "operation" else {}
    path = os.pathsep.join(part for part in (str(HOOK), os.environ.get("PYTHONPATH", "")) if part)
    own = {"PYTHONPATH": path, "STORM_FOLDER": str(folder), "STORM_OPERATIONS": str(file), **stop}
    done = Attempt(log)
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, **environment, **own},
        )  # fmt: skip
    root = psutil.Process(process.pid)
    try:
        while process.poll() is None and time.monotonic() - begin < limit:
            if kill and done.killed is None and (due := _due(kill, root, file)) is not None:
                _strike(kill, root, done, due)
            time.sleep(POLL[kill.how] if kill else POLL["moment"])
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
    rows = (line.split(None, 2) for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return [Operation(int(pid), event, path.rstrip()) for pid, event, path in rows]


def _due(kill: Kill, root: psutil.Process, file: Path) -> tuple[psutil.Process | None, str] | None:
    """Whether the kill is due: the process that stopped for it, if one did, and the moment in words."""
    if kill.how == "moment":
        spent = _cpu_seconds(root)
        return (None, f"{spent:.2f} s of processor time") if spent >= kill.at else None
    if file.stat().st_size < kill.at * WIDTH:
        return None
    operation = read_operations(file)[int(kill.at) - 1]
    try:
        process = psutil.Process(operation.pid)
        if process.status() != psutil.STATUS_STOPPED:
            return None
    except psutil.NoSuchProcess:  # a kill from outside
        return None
    return process, f"operation {int(kill.at)}, {operation.event} {operation.path}"


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
