"""Locks that keep two benches on one store from executing the same run.

A run holds `<record>.lock` while it works; a bench holds `<record>.claim` from before it starts the run until
it has read the record. The system frees both when their holder ends, however it ends. Machines that share a
store need a file system on which locks work between them, as NFS 4 is.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.files import release, remove_abandoned
from benchmark.results.record import RunRecord
from benchmark.results.store import ignore, usable


def claim(record_path: Path) -> FileLock | None:
    """The lock that allows to execute the run of `record_path`, held until `release`; None where another
    process works on the run."""
    lock = FileLock(record_path.with_suffix(".claim"))
    try:
        record_path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    if _running(record_path):
        release(lock)
        return None
    return lock


def _running(record_path: Path) -> bool:
    """Whether a process that no bench started executes the run."""
    file = record_path.with_suffix(".lock")
    if not file.exists():
        return False
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    release(lock)  # of a run that was killed
    return False


def clear(record_path: Path) -> None:
    """Remove what a process that was killed has left beside a finished record: checkpoint, log, status, locks
    and temporary files.

    Nothing is removed where another process works on the run.
    """
    remove_abandoned(record_path.parent)
    checkpoint, *files = (record_path.with_suffix(end) for end in (".checkpoint", ".log", ".status"))
    locks = record_path.with_suffix(".claim"), record_path.with_suffix(".lock")
    if not any(path.exists() for path in (checkpoint, *files, *locks)) or not (lock := claim(record_path)):
        return
    shutil.rmtree(checkpoint, ignore_errors=True)
    for file in files:
        with suppress(OSError):  # somebody else's, or a folder of that name
            file.unlink(missing_ok=True)
    release(lock)


Stamp = tuple[int, int] | None
"""Identifies a version of a file; None where there is none."""


def stamp(record_path: Path) -> Stamp:
    """Of the present record."""
    try:
        status = record_path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def made_since(record_path: Path, before: Stamp) -> RunRecord | None:
    """The record, if it was written after `before`, and its run was not interrupted."""
    if stamp(record_path) in (None, before):
        return None
    record = usable(record_path, ignore)
    return None if record is None or record.status == "interrupted" else record
