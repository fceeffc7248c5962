"""Counts file operations. Python loads this file in every process of a storm: its folder is on PYTHONPATH.

Each operation below $STORM_FOLDER appends one line of WIDTH bytes to the file $STORM_OPERATIONS before it
happens, so that the length of the file numbers the operations of all processes. The process that is about to
do operation $STORM_STOP_AT stops itself; the storm, which watches the file, then sends its SIGKILL.

Where the regular expression $STORM_BEGINS is not empty, $STORM_STOP_AT counts from the first operation of a
process that it matches. Files that are opened to be read count only if they match it.
"""
# ruff: noqa: PTH100, PTH115, PTH117, PTH118
# Without pathlib: every process of a storm pays for what is imported here.

import os
import re
import signal
import sys
import time

WIDTH = 256
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
PATH_OF = {
    "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.link": 1, "os.symlink": 1,
    "os.truncate": 0, "os.chmod": 0,
}  # fmt: skip
"""Audit event -> which of its arguments is the path that changes."""
FOLDER_OF = {"os.rename": 3, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 2}
"""Audit event -> which of its arguments is the descriptor of the folder that the path is relative to."""


def watch(folder: str, log: str, stop_at: int, begins: str = "", number: int = signal.SIGSTOP) -> None:
    """Count the operations of this process from now on; at operation `stop_at` it gets signal `number`."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    first = None if begins else 1

    def place(event: str, args: tuple[object, ...]) -> str | None:
        path = args[PATH_OF[event]] if event in PATH_OF else args[0]
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None  # a descriptor: counted when it was opened
        path = os.fsdecode(path)
        at = args[FOLDER_OF[event]] if event in FOLDER_OF else -1
        if isinstance(at, int) and at >= 0 and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{at}"), path)
        path = os.path.abspath(path)
        return os.path.relpath(path, folder) if path.startswith(folder + os.sep) else None

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal first
        if event != "open" and event not in PATH_OF:
            return
        reads = event == "open" and not (isinstance(args[2], int) and args[2] & CHANGES)
        if (reads and first is not None) or (path := place(event, args)) is None:
            return
        event = "read" if reads else event
        matches = first is None and re.search(begins, f"{event} {path}") is not None
        if reads and not matches:
            return
        line = f"{os.getpid()} {time.monotonic():.6f} {event} {path}".encode()
        os.write(file, line[: WIDTH - 1].ljust(WIDTH - 1) + b"\n")
        now = os.lseek(file, 0, os.SEEK_CUR) // WIDTH
        first = now if matches else first
        if first is not None and now - first + 1 == stop_at:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def watch_by_environment() -> None:
    """Count as the environment says."""
    given = os.environ
    watch(
        given["STORM_FOLDER"], given["STORM_OPERATIONS"], int(given["STORM_STOP_AT"]), given["STORM_BEGINS"]
    )


if "STORM_FOLDER" in os.environ:
    watch_by_environment()
