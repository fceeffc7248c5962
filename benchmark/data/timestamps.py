"""Times of interactions, as numbers: from numbers, from ISO 8601 text, and from Parquet's types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

EXAMPLE = "2024-01-31T12:30:00Z"
YEARS = "1678 to 2261"
"""Years whose moments fit into 64 bits as nanoseconds."""
_DATE = r"^\d{4}-\d\d-\d\d([T ]\d\d(:\d\d(:\d\d([.,]\d+)?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?$"
_ZONE = r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$"
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Unit of clock times -> ticks of a second."""
_CLOCK = (datetime(1980, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp())
_SAMPLE = 10**6

Numbers = npt.NDArray[Any]


def clock_unit(times: Numbers) -> str:
    """The unit in which the middle time of `[N]` lies in the years 1980 to 2100, or "unknown"."""
    middle = float(np.median(times[:: 1 + len(times) // _SAMPLE]))
    return next((unit for unit, ticks in TICKS.items() if _CLOCK[0] <= middle / ticks < _CLOCK[1]), "unknown")


class Times:
    """The times of one file. Text is of numbers or of ISO 8601 times, as most of the first rows."""

    def __init__(self) -> None:
        self._dates: bool | None = None

    def read(self, written: Any) -> Numbers:
        """Times `[n]` of an Arrow column: int64 where all are whole, else float64, NaN where one is no time.

        Moments of Parquet are nanoseconds, ISO 8601 times microseconds since 1970; without a zone they count
        as UTC.
        """
        kind = written.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return _moments(written)
        if not pa.types.is_string(kind):
            return _numbers(written)
        if self._dates is None:
            dated = pc.sum(pc.match_substring_regex(written, _DATE)).as_py() or 0
            self._dates = 2 * dated > len(written)
        return _dates(written) if self._dates else _numbers_in_text(written)

    def fault(self, written: Any) -> str:
        """Why the time `written`, an Arrow scalar that `read` made NaN, is none."""
        shown = (written.cast(pa.string()).as_py() if written.is_valid else None) or ""
        if pa.types.is_timestamp(written.type) or pa.types.is_date(written.type):
            return f"timestamp '{shown}' is not a moment of the years {YEARS}"
        if self._dates:
            return (
                f"timestamp '{shown}' is not an ISO 8601 date and time such as {EXAMPLE} of the years {YEARS}"
            )
        return f"timestamp '{shown}' is not a number (or an ISO 8601 time such as {EXAMPLE})"


def _numbers(written: Any) -> Numbers:
    """Of a column of whole numbers, decimals or floats."""
    kind = pa.float64() if written.null_count or pa.types.is_floating(written.type) else pa.int64()
    try:
        numbers = written.cast(kind)
    except pa.ArrowInvalid:  # beyond 64 bits, or a fraction
        numbers = written.cast(pa.float64(), safe=False)
    return np.asarray(pc.fill_null(numbers, np.nan if written.null_count else 0))


def _numbers_in_text(written: Any) -> Numbers:
    hexadecimal = pc.any(pc.match_substring(written, "x", ignore_case=True)).as_py()
    for kind in () if hexadecimal else (pa.int64(), pa.float64()):  # Arrow reads 0x10 as a number
        try:
            return np.asarray(written.cast(kind))
        except pa.ArrowInvalid:
            continue
    import pandas as pd

    series = pd.Series(written.to_pylist(), dtype=object)
    coerced = pd.to_numeric(series, errors="coerce").to_numpy()
    return coerced if coerced.dtype == np.int64 else coerced.astype(np.float64)


def _dates(written: Any) -> Numbers:
    """Microseconds since 1970 of ISO 8601 times."""
    dated = pc.match_substring_regex(written, _DATE)
    zoned = pc.match_substring_regex(written, _ZONE)
    if pc.all(dated).as_py() and len(pc.unique(zoned)) == 1:
        zone = "UTC" if zoned[0].as_py() else None
        try:
            return _scaled(written.cast(pa.timestamp("us", zone)), 1)
        except pa.ArrowInvalid:  # a month 13, or more than six digits of a second
            pass
    pairs = zip(written.to_pylist(), dated.to_pylist(), strict=True)
    times = np.asarray([_date(text) if good else np.nan for text, good in pairs])
    return times if np.isnan(times).any() else times.astype(np.int64)


def _date(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return np.nan
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    ticks = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    return ticks if abs(ticks) < 2**63 // 1000 else np.nan


def _moments(written: Any) -> Numbers:
    """Nanoseconds since 1970 of a column of dates or timestamps."""
    if pa.types.is_date(written.type):
        written = written.cast(pa.timestamp("ms" if pa.types.is_date64(written.type) else "s"))
    return _scaled(written, _NANOSECONDS[written.type.unit])


def _scaled(moments: Any, factor: int) -> Numbers:
    """Ticks times `factor`, NaN for a null and for what is out of range."""
    nanoseconds = _NANOSECONDS[moments.type.unit]
    ticks: Numbers = np.asarray(pc.fill_null(moments.cast(pa.int64()), 0))
    most = (2**63 - 1) // nanoseconds
    good = np.asarray(moments.is_valid()) & (ticks >= -most) & (ticks <= most)
    return ticks * factor if good.all() else np.where(good, ticks, np.nan) * factor
