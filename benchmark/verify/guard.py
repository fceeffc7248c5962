"""Verify in a process of its own, which the system stops where it takes too long or too much memory.

A bundle comes from a stranger, and its tables are read by a library in C++. A fault there, a file that grows
in memory, or one that is slow to read ends that process and becomes one line.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from benchmark.data.recipe import NO_OPTIONS, FolderOptions
from benchmark.verify.levels import Finding, Verdict, verify
from benchmark.verify.truth import prepared_data
from methods.errors import UserError

MEMORY = 8 * 2**30
"""Bytes of address space that the process may have."""


@dataclass(frozen=True)
class Request:
    """What is to be verified."""

    path: Path
    level: str
    seconds: int
    data: tuple[str, ...] = ()
    """Datasets at hand: names of recipes or folders."""
    reading: FolderOptions = NO_OPTIONS
    store: Path | None = None
    """The store whose records say which data have a name."""


REQUEST = TypeAdapter(Request)


def verify_guarded(request: Request) -> Verdict:
    """As `levels.verify`, in a process of its own. Raises `UserError` where that has to be stopped.

    The data are the user's own: they are prepared here, in whatever time that takes.
    """
    prepared_data(request.data, request.reading)
    path, seconds = request.path, request.seconds
    words = [sys.executable, "-P", "-m", "benchmark.verify.guard", REQUEST.dump_json(request).decode()]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{path} was not verified within {seconds:,} seconds; a bundle that is well takes a few. Give "
            "more by --seconds."
        ) from None
    if done.returncode == -signal.SIGXCPU:
        raise UserError(f"{path} was not verified within {seconds:,} seconds of processor time.")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        raise UserError(
            f"{path} cannot be verified: reading it ended the process that reads it, by {how}."
        ) from None
    if "error" in answer:
        raise UserError(answer["error"])
    findings = [Finding(**finding) for finding in answer.pop("findings")]
    return Verdict(path, answer["digest"], answer["size"], answer["runs"], findings)


def _limit(seconds: int) -> None:
    for what, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, seconds)):
        with contextlib.suppress(OSError, ValueError):  # a system without it, or a lower limit already
            resource.setrlimit(what, (value, value))


def main(text: str) -> None:
    """Verify what is requested, and print the verdict as JSON."""
    request = REQUEST.validate_json(text)
    try:
        _limit(request.seconds)
        data = prepared_data(request.data, request.reading)
        verdict = verify(request.path, request.level, data, request.store)
        answer = {**asdict(verdict), "path": None}
    except UserError as error:
        answer = {"error": str(error)}
    except MemoryError:
        needs = f"it needs more than {MEMORY // 2**30} GiB of memory"
        answer = {"error": f"{request.path} cannot be verified: {needs}."}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
