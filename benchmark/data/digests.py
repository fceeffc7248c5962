"""Digests of input files, remembered: a file of many gigabytes is not read again for every cell of a grid."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path

from benchmark.files import digest_of, write_json

_SETTLED = 2.0
"""Seconds since its last change after which a file is remembered: within a clock tick it could change again
without its time changing."""


def remembered_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes, from `cache` where path, size and time are those of an earlier call."""
    place = path.resolve()
    status = place.stat()
    known = {
        "path": str(place),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
    }
    memory = cache / "digests" / f"{hashlib.sha256(str(place).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(memory.read_text(encoding="utf-8"))
        if {name: stored[name] for name in known} == known:
            return str(stored["sha256"])
    found = digest_of(place)
    if time.time() - status.st_mtime > _SETTLED:
        with suppress(OSError):  # a cache that cannot be written is told of where it is needed
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, {**known, "sha256": found})
    return found
