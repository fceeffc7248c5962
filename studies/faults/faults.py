"""The faults, each a function that yields its trials."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from studies.common.chain import Phase
from studies.faults.machine import (
    MIB,
    answer_flock,
    clock_library,
    disk,
    forbid,
    limit_files,
    limit_memory,
    obey_permissions,
    used_bytes,
)
from studies.faults.trial import AS_WITHOUT, Row, Worlds, environment, outcome_of

ROOM = "size=64m"
FULL = 8
"""Disks of different sizes for each command."""
BLOCK = 4096
MEMORY = (0, 1, 4, 16, 64, 128, 256, 512)
"""MiB beyond what a process has when it has imported everything."""
FILES, FEWER_FILES = (64,), (32, 16, 12, 8)
ANSWERS = {
    "ENOLCK": errno.ENOLCK, "ENOSYS": errno.ENOSYS, "EOPNOTSUPP": errno.EOPNOTSUPP, "granted to all": 0,
}  # fmt: skip
NO_LOCKS = "store without working locks"
MOMENTS = 4
"""Moments at which the clock is set back during a command."""
BENCHES = {2: 2, 4: 1}
"""How many benches at a time -> how often."""


def full_disk(worlds: Worlds, chance: random.Random) -> Iterator[Row]:
    """Disks that become full at different places of a command."""
    for phase in commands(worlds):
        with disk(worlds.work / "disk") as remount:
            worlds.fresh(phase, worlds.work / "disk")
            used = used_bytes(worlds.work / "disk")
            worlds.run(phase, worlds.work / "disk" / "world")
            grows = used_bytes(worlds.work / "disk") - used
        for part in range(FULL):
            more = int(grows * part / FULL) // BLOCK * BLOCK
            with disk(worlds.work / "disk") as remount:
                folder = worlds.fresh(phase, worlds.work / "disk")
                remount(f"size={max(BLOCK, used_bytes(worlds.work / 'disk') + more)}")  # 0 is no limit
                lift = partial(remount, ROOM)
                yield worlds.judged("full disk", f"{more} bytes free", phase, folder, lift=lift)


def read_only(worlds: Worlds, chance: random.Random) -> Iterator[Row]:
    """A disk that cannot be written, and folders that may not."""
    for phase in commands(worlds):
        with disk(worlds.work / "disk") as remount:
            folder = worlds.fresh(phase, worlds.work / "disk")
            remount("ro")
            yield worlds.judged("read-only folder", "disk", phase, folder, lift=partial(remount, "rw"))
        for name in ("cache", "results", "reports", "bundles", "tmp"):
            folder = worlds.fresh(phase)
            if f"{name}/" not in worlds.after[phase.name]:
                continue
            (folder / name).mkdir(exist_ok=True)
            forbid(folder / name)  # which does not bind root, who runs the command again
            yield worlds.judged("read-only folder", name, phase, folder, obey_permissions)


def few_files(worlds: Worlds, chance: random.Random) -> Iterator[Row]:
    """64 file descriptors, and fewer."""
    for count in (*FILES, *FEWER_FILES):
        fault = "64 file descriptors" if count in FILES else "32 to 8 file descriptors"
        for phase in commands(worlds):
            first = partial(limit_files, count)
            yield worlds.judged(fault, str(count), phase, worlds.fresh(phase), first)


def little_memory(worlds: Worlds, chance: random.Random) -> Iterator[Row]:
    """A limit on address space."""
    for phase in commands(worlds):
        for more in MEMORY:
            first = partial(limit_memory, more * MIB)
            yield worlds.judged("memory limit", f"{more} MiB", phase, worlds.fresh(phase), first)


def clock_back(worlds: Worlds, chance: random.Random) -> Iterator[Row]:
    """The clock an hour back, before a command or during it: stored files are then of the future."""
    library = str(clock_library(worlds.work))
    for phase in commands(worlds):
        begin = worlds.in_process({"LD_PRELOAD": library, "CLOCK_SET_BACK_AT": "0"})
        start = time.monotonic()
        yield worlds.judged("clock set back an hour", "before", phase, worlds.fresh(phase), begin=begin)
        took = time.monotonic() - start
        for _ in range(MOMENTS if phase.name == "record" else 0):
            moment = time.monotonic() + chance.random() * took
            begin = worlds.in_process({"LD_PRELOAD": library, "CLOCK_SET_BACK_AT": f"{moment:.6f}"})
            yield worlds.judged("clock set back an hour", "during", phase, worlds.fresh(phase), begin=begin)


def no_locks(worlds: Worlds, chance: random.Random) -> Iterator[Row]:
    """A disk that has no locks, or grants them to all."""
    for phase in commands(worlds):
        stores = phase.makes is None
        for name, number in ANSWERS.items():
            fault = NO_LOCKS if stores else "report or bundle without working locks"
            first = partial(answer_flock, number)
            yield worlds.judged(fault, name, phase, worlds.fresh(phase), first)


def benches(worlds: Worlds, chance: random.Random) -> Iterator[Row]:
    """A bench under two faults, and benches that start on one store at the same time."""
    (phase,) = (phase for phase in worlds.phases if phase not in commands(worlds))
    folder = worlds.fresh(phase)
    yield worlds.judged("64 file descriptors", "64", phase, folder, partial(limit_files, *FILES))
    first = partial(answer_flock, 0)
    yield worlds.judged(NO_LOCKS, "granted to all", phase, worlds.fresh(phase), first)
    for count, times in BENCHES.items():
        for trial in range(times):
            folder = worlds.fresh(phase)
            yield _benches(worlds, phase, folder, count, trial)


def _benches(worlds: Worlds, phase: Phase, folder: Path, count: int, trial: int) -> Row:
    logs = [worlds.work / "logs" / f"benches-{count}-{trial}-{number}.log" for number in range(count)]
    own = {**os.environ, **environment(worlds.chain, folder)}
    processes = []
    for log in logs:
        with log.open("wb") as out:
            processes.append(
                subprocess.Popen(phase.words(folder), cwd=folder, env=own, stdout=out, stderr=out)
            )
    ended = [process.wait() for process in processes]
    outcomes = {outcome_of(status, log) for status, log in zip(ended, logs, strict=True)}
    begun = Counter(
        line.split(maxsplit=1)[1].partition(" begins")[0]
        for log in logs
        for line in log.read_text().splitlines()
        if " begins" in line
    )
    twice = [f"{run} was made {times} times" for run, times in begun.items() if times > 1]
    outcome = "; ".join(sorted(outcomes))
    row = worlds.judged("", "", phase, folder)
    lost = "; ".join(
        [*twice, *([row.outcome] if row.outcome != AS_WITHOUT else []), *filter(None, [row.lost])]
    )
    return Row(f"{count} benches on one store", f"trial {trial}", phase.name, outcome, lost)


def commands(worlds: Worlds) -> list[Phase]:
    """The phases but for the bench, which takes longest and does what the others do."""
    return [phase for phase in worlds.phases if phase.name != "training"]


FAULTS: dict[str, Callable[[Worlds, random.Random], Iterator[Row]]] = {
    "full-disk": full_disk,
    "read-only": read_only,
    "files": few_files,
    "memory": little_memory,
    "clock": clock_back,
    "locks": no_locks,
    "benches": benches,
}
