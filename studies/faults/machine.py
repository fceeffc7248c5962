"""Faults of a machine, made for one process and those that it starts, or for one folder."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20
_FLOCK = {"x86_64": 73, "aarch64": 32}
"""Architecture -> number of the system call flock."""
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ANSWER, _ALLOW = 0x00050000, 0x7FFF0000


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort), ("then", ctypes.c_ubyte), ("otherwise", ctypes.c_ubyte),
        ("value", ctypes.c_uint32),
    )  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def answer_flock(number: int) -> None:
    """Let the system answer each flock of this process with error `number`, and do nothing; 0 grants it."""
    is_flock = _Instruction(_EQUAL, 0, 1, _FLOCK[platform.machine()])
    answer, allow = _Instruction(_RETURN, 0, 0, _ANSWER | number), _Instruction(_RETURN, 0, 0, _ALLOW)
    steps = (_Instruction * 4)(_Instruction(_LOAD, 0, 0, 0), is_flock, answer, allow)
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(steps), steps)
    no_new_privileges, seccomp, mode_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(seccomp, mode_filter, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "the system takes no filter of system calls")


def limit_files(count: int) -> None:
    """At most `count` descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def limit_memory(more: int) -> None:
    """At most `more` bytes of address space beyond those that this process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def forbid(folder: Path) -> None:
    """Take from all users the permission to write to `folder` and all below it."""
    for place in (folder, *folder.rglob("*")):
        place.chmod(place.stat().st_mode & ~0o222)


def obey_permissions() -> None:
    """Permissions bind this process from now on, also where root runs it."""
    version, override, all_processes = 0x20080522, 1 << 1 | 1 << 2, 0
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(version, all_processes)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "the system has no capabilities")
    sets[0] &= ~override
    libc.capset(header, sets)


@contextmanager
def disk(place: Path) -> Iterator[Callable[[str], None]]:
    """A disk in memory at `place`: what sets its options, such as `size=64k` or `ro`. It needs root."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", str(place)], check=True)


def used_bytes(place: Path) -> int:
    """Of the disk at `place`."""
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def clock_library(folder: Path) -> Path:
    """`clock.c`, compiled. It needs a C compiler."""
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library
