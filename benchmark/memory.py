"""How much memory processes can still take."""

from __future__ import annotations

import math
from pathlib import Path

import psutil


def available_memory() -> float:
    """Bytes of host memory that processes can still take, within the limit of a container."""
    return min(float(psutil.virtual_memory().available), _left_in_container())


def _left_in_container() -> float:
    """Bytes below the limit that a container sets (cgroup v2), cached files counted as free; infinite where
    none does."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = next((int(value) for name, value in rows if name == "inactive_file"), 0)
    except (OSError, ValueError):
        return math.inf
    return math.inf if limit == "max" else float(int(limit) - used + files)
