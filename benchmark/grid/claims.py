"""Which bench does a cell: a lock beside its record, so that two on one store do not do a cell twice.

A run holds `<record>.lock` while it works; a bench holds `<record>.claim` from before it starts the run until
it has read the record. The system frees both when their holder is gone, however it went. Machines that share
a store need a file system on which locks work between them, as NFS 4 is.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.files import remove_abandoned
from benchmark.results.record import RunRecord
from benchmark.results.store import finished, ignore, usable


@dataclass(frozen=True)
class Claim:
    """The right to run one cell."""

    lock: FileLock

    def release(self) -> None:
        """Give it back; nothing stays behind."""
        Path(self.lock.lock_file).unlink(missing_ok=True)  # while held: nobody can then take the old file
        self.lock.release()


def claim(record_path: Path) -> Claim | None:
    """The right to run the cell of `record_path`, or None where another process works on it."""
    lock = FileLock(record_path.with_suffix(".claim"))
    try:
        record_path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    found = Claim(lock)
    if _running(record_path):
        found.release()
        return None
    return found


def _running(record_path: Path) -> bool:
    """Whether a run that no bench claimed works on the cell."""
    file = record_path.with_suffix(".lock")
    if not file.exists():
        return False
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    file.unlink(missing_ok=True)  # of a run that was killed
    lock.release()
    return False


def clear(record_path: Path) -> None:
    """Remove what a process that was killed has left beside a finished record: checkpoint, log and locks, and
    temporary files.

    Nothing is removed where another process works on the cell.
    """
    remove_abandoned(record_path.parent)
    checkpoint, log = record_path.with_suffix(".checkpoint"), record_path.with_suffix(".log")
    locks = record_path.with_suffix(".claim"), record_path.with_suffix(".lock")
    if not any(path.exists() for path in (checkpoint, log, *locks)) or (right := claim(record_path)) is None:
        return
    shutil.rmtree(checkpoint, ignore_errors=True)
    with suppress(OSError):  # somebody else's, or a folder of that name
        log.unlink(missing_ok=True)
    right.release()


Stamp = tuple[int, int] | None
"""Tells two versions of a file apart; None where there is none."""


def stamp(record_path: Path) -> Stamp:
    """Of the record that stands there now."""
    try:
        found = record_path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def made_since(record_path: Path, before: Stamp) -> RunRecord | None:
    """The record, if it was written after `before`, and its run was not interrupted."""
    if stamp(record_path) in (None, before):
        return None
    record = usable(record_path, ignore)
    return None if record is None or record.status == "interrupted" else record


def standing(record_path: Path, before: Stamp, fresh: bool, code: str | None) -> RunRecord | None:
    """The record that makes running the cell needless: a finished one (not if `fresh`), or what another
    bench wrote since `before`, however its run ended. Made by the method's code of digest `code`, either."""
    if (made := made_since(record_path, before)) and not made.made_by_other(code):
        return made
    return None if fresh else finished(record_path, code)
