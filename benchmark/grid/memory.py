"""How much host memory a child and all that it started hold, seen from outside: it may be killed."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

EVERY = 0.25
"""Seconds between two measurements."""
LOOK = 2.0
"""Seconds between two looks at which processes it has started, which costs a look at every process."""


class Memory:
    """Resident memory of a process with all that it started."""

    def __init__(self, process: int) -> None:
        self.peak: int | None = None
        """The largest sum so far, in bytes; None as long as there is no measurement."""
        self._group: list[psutil.Process] = []
        with suppress(psutil.Error):  # it has ended already
            self._group = [psutil.Process(process)]
        self._measured = self._looked = -max(EVERY, LOOK)

    def measure(self) -> None:
        """Measure now, unless the last time was a moment ago."""
        now = time.monotonic()
        if not self._group or now - self._measured < EVERY:
            return
        self._measured = now
        if now - self._looked >= LOOK:
            self._looked = now
            with suppress(psutil.Error):
                self._group[1:] = self._group[0].children(recursive=True)
        held = 0
        for process in self._group:
            with suppress(psutil.Error):
                held += process.memory_info().rss
        if held:
            self.peak = max(self.peak or 0, held)
