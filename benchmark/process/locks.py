"""Locks between processes. The system frees a lock when its holder ends, however it ends.

A file system may not lock: it says so, or it grants a lock to everyone. Both are noticed, since two processes
that share a store or a cache there would do the same work and remove each other's files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from methods.errors import UserError

POLL = 0.05
"""Seconds between two tries."""
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class Lock:
    """A lock on `file`, which is made where it is absent and stays until `remove`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._handle: int | None = None

    def acquire(self, seconds: float | None = 0.0) -> bool:
        """Try for so many seconds, for ever where it is None: -> whether this object has the lock now.

        Raises `UserError` where the file system has no working locks, `OSError` where `file` cannot be made.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not self._try():
            if end is not None and time.monotonic() >= end:
                return False
            time.sleep(POLL)
        return True

    def _try(self) -> bool:
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            if locked(handle, self.file) and os.fstat(handle).st_nlink:  # else its last holder removed it
                self._handle, handle = handle, -1
        finally:
            if handle >= 0:
                os.close(handle)
        return self._handle is not None

    def release(self) -> None:
        """Free it."""
        if self._handle is not None:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # a copy of this process may hold the file open
            os.close(self._handle)
            self._handle = None

    def remove(self) -> None:
        """Free it and remove its file. No other process can have taken that file: the lock is still held."""
        self.file.unlink(missing_ok=True)
        self.release()


def locked(handle: int, path: Path) -> bool:
    """Lock the open file or folder at `path`: -> whether `handle` has the lock, which no other one has.

    Raises `UserError` where the file system has no working locks.
    """
    if not _granted(handle, path):
        return False
    try:
        second = os.open(path, fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE | os.O_NOFOLLOW)
    except FileNotFoundError:  # its last holder has removed it
        return True
    try:
        if os.path.samestat(os.fstat(second), os.fstat(handle)) and _granted(second, path):
            raise _no_locks(path, "it grants a lock to everyone")
    finally:
        os.close(second)
    return True


def _granted(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _no_locks(path, os.strerror(error.errno)) from error
        raise
    return True


def _no_locks(path: Path, why: str) -> UserError:
    return UserError(
        f"the disk of {path} has no working locks ({why}): two processes could do the same work there and "
        "damage each other's; name a folder on another disk (--results, ADAPTREC_CACHE)."
    )


@contextmanager
def held(lock_file: Path, waits: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold a lock across processes: -> whether the folder of `lock_file` can be written.

    A folder that cannot be written can be read without the lock. `waits` is called if another process holds
    it. Raises `UserError` where `lock_file` can never be made, or does not lock.
    """
    lock = Lock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        if not lock.acquire():
            waits()
            lock.acquire(None)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise UserError(
                f"the cache {lock_file.parent} cannot be written: {error}; set ADAPTREC_CACHE to another "
                "folder."
            ) from error
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
