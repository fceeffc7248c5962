"""Progress on stderr: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 30.0
"""Between two lines where stderr is not a terminal."""


class Progress:
    """Counts `total` items (None where nobody knows), `done` of which were finished before."""

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
            print(meter, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
