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
from dataclasses import asdict
from pathlib import Path

from benchmark.verify.levels import Finding, Verdict, verify
from methods.errors import UserError

MEMORY = 8 * 2**30
"""Bytes of address space that the process may have."""


def verify_guarded(path: Path, level: str, seconds: int) -> Verdict:
    """As `levels.verify`, in a process of its own. Raises `UserError` where that has to be stopped."""
    words = [sys.executable, "-P", "-m", "benchmark.verify.guard", str(path), level, str(seconds)]
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


def main(path: str, level: str, seconds: str) -> None:
    """Verify, and print the verdict as JSON."""
    _limit(int(seconds))
    try:
        verdict = verify(Path(path), level)
        answer = {**asdict(verdict), "path": path}
    except UserError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"{path} cannot be verified: it needs more than {MEMORY // 2**30} GiB of memory."}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
