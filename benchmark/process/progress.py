"""Progress on stderr: a bar (lines where stderr is no terminal), and the names of steps that take long."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 30.0
"""Between two lines where stderr is not a terminal."""
STEP_SECONDS = 3.0
"""Seconds after which a step is printed."""


class Progress:
    """Counts `total` items (None where it is unknown), `done` of which were finished before."""

    def __init__(self, title: str, total: int | None, done: int = 0, unit: str = " items") -> None:
        self.title, self.total, self.done, self._initial, self._unit = title, total, done, done, unit
        self._start = self._last = time.perf_counter()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=unit,
            unit_scale=unit == "B",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Progress:
        return self

    def advance(self, count: int) -> None:
        """`count` more items are finished."""
        self.done += count
        self._bar.update(count)
        now = time.perf_counter()
        if self._bar.disable and now - self._last >= LINE_SECONDS:
            self._last = now
            meter = tqdm.format_meter(
                self.done,
                self.total or 0,
                now - self._start,
                ncols=0,  # no bar, only the figures
                prefix=self.title,
                unit=self._unit,
                unit_scale=self._unit == "B",
                initial=self._initial,
            )
            _print(meter)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


@contextmanager
def print_steps(name: str, patience: float = STEP_SECONDS) -> Iterator[Callable[[str], None]]:
    """Give a function that is called with the name of each step of a task `name` when it begins.

    A step that has taken `patience` seconds is printed, and again with its duration when it ends.
    """
    step, since, over = "", time.monotonic(), threading.Event()

    def begin(following: str) -> None:
        nonlocal step, since, over
        over.set()
        if step and (seconds := time.monotonic() - since) >= patience:
            _print(f"{name}: {step}: {seconds:.0f} s")
        step, since, over = following, time.monotonic(), threading.Event()
        # a `threading.Thread` waits until it has begun, for ever where there is too little memory for that
        _thread.start_new_thread(_print_later, (f"{name}: {step} ...", patience, over))

    try:
        yield begin
        begin("")
    finally:
        over.set()


def _print_later(line: str, seconds: float, over: threading.Event) -> None:
    """Print `line` unless `over` is set within `seconds`."""
    if not over.wait(seconds):
        _print(line)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
