"""What somebody sees who waits for a dataset to be prepared: each step that takes its time, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 3.0
"""Seconds after which a step is told."""


@contextmanager
def told_steps(name: str, patience: float = PATIENCE) -> Iterator[Callable[[str], None]]:
    """What `prepare` tells of its steps for the dataset `name`: a line where a step has taken `patience`
    seconds, and one with its seconds when it is over."""
    step, since = "", time.monotonic()
    timer = threading.Timer(patience, _say, [""])  # begun anew, with another line, by each step

    def begin(following: str) -> None:
        nonlocal step, since, timer
        timer.cancel()
        if step and (seconds := time.monotonic() - since) >= patience:
            _say(f"{name}: {step}: {seconds:.0f} s")
        step, since = following, time.monotonic()
        timer = threading.Timer(patience, _say, [f"{name}: {step} ..."])
        timer.daemon = True
        timer.start()

    try:
        yield begin
        begin("")
    finally:
        timer.cancel()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
