"""How much memory processes can still take."""

from __future__ import annotations

import math
from pathlib import Path

from methods.errors import UserError

LEAST_ADDRESS_SPACE = 64 << 20
"""Bytes of address space; with less, libraries end or stop a process and report no lack of memory."""


def available_memory() -> float:
    """Bytes of host memory that processes can still take, within the limit of a container."""
    import psutil

    return min(float(psutil.virtual_memory().available), _left_in_container())


def address_space_left() -> float:
    """Bytes that this process can still map below its limit (`ulimit -v`); infinite where none is set."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return math.inf
    import psutil  # only here: every command asks, and most have no limit

    return float(limit - psutil.Process().memory_info().vms)


def check_address_space(least: int, rule: str) -> None:
    """Raise `UserError` where less than `least` bytes are left; `rule` is the sentence up to the number."""
    if (left := address_space_left()) < least:
        raise UserError(
            f"the limit on memory (`ulimit -v`) leaves {max(0, left) / 1e6:.0f} MB, and {rule} "
            f"{least / 1e6:.0f} MB; raise the limit, then the same command goes on."
        )


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
