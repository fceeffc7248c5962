"""Digests of input files, remembered: a file of many gigabytes is not read again for every cell of a grid."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.files import DamagedError, digest_of, read_checked, write_checked

_SETTLED = 2.0
"""Seconds since its last change after which a file is remembered: within a clock tick it could change again
without its times changing."""


def remembered_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes, from `cache` where the file is the one of an earlier call.

    It is where path, size, inode and both times are the same. The time of the last change of the inode
    (ctime) cannot be set: it tells of a change after which somebody has restored the time of modification,
    as `cp -p`, `rsync -t` and archivers do. A file system without such a time is trusted in the other four.
    """
    place = path.resolve()
    before = _known(place)
    memory = cache / "digests" / f"{hashlib.sha256(str(place).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, DamagedError):
        stored = read_checked(memory, (*before, "sha256"))
        if {name: stored[name] for name in before} == before:
            return str(stored["sha256"])
    found = digest_of(place)
    last = max(before["mtime_ns"], before["ctime_ns"]) / 1e9
    if time.time() - last > _SETTLED and _known(place) == before:
        with suppress(OSError):  # a cache that cannot be written is told of where it is needed
            write_checked(memory, {**before, "sha256": found})
    return found


def _known(place: Path) -> dict[str, Any]:
    """What a file is known by, without reading it."""
    status = place.stat()
    return {
        "path": str(place),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }
