"""Explain why two figures differ: their settings, and the difference in each metric with its interval."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmark.escape import visible_line
from benchmark.explain.settings import differences
from benchmark.explain.sources import Source
from benchmark.report.differences import signed
from benchmark.results.measures import share
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS
from benchmark.results.statistics import bootstrap, interval

Z = 1.959964
"""Of a 95 % normal interval."""
SPLITS = {True: "test_masked", False: "test"}
"""History masked -> split."""
WIDTH = 110
"""Columns of prose on a terminal."""


@dataclass(frozen=True)
class Gap:
    """The difference in one metric."""

    metric: str
    masked: bool
    """Whether the history is masked, as far as the sources state it."""
    a: float
    b: float
    low: float
    high: float
    """95 % interval of `a - b`."""
    how: str
    """BOOTSTRAP or ERRORS."""


BOOTSTRAP = "bootstrap over users and seeds"
ERRORS = "standard errors of independent sources"


def gaps(a: Source, b: Source) -> list[Gap]:
    """The difference in each metric that both sources have, with the history masked and then raw."""
    gaps_of_metrics = []
    intervals: dict[tuple[str, str], tuple[float, float]] = {}
    if a.gains and b.gains and same_data(a, b) and np.array_equal(a.gains.user, b.gains.user):
        samples = bootstrap([a.gains.by_seed, b.gains.by_seed])  # [draws, 2, C]
        ends = zip(*(end.tolist() for end in interval(samples[:, 0] - samples[:, 1])), strict=True)
        intervals = dict(zip(a.gains.columns, ends, strict=True))
    for masked in (False,) if a.published and b.published else (True, False):
        for metric in dict.fromkeys((*a.metrics, *b.metrics)):
            key = (metric, masked)
            if key not in a.figures or key not in b.figures:
                continue
            x, y = a.figures[key], b.figures[key]
            how = BOOTSTRAP if intervals else ERRORS
            half = Z * math.hypot(_error(a, metric, masked), _error(b, metric, masked))
            low, high = intervals.get((SPLITS[masked], metric), (x - y - half, x - y + half))
            gaps_of_metrics.append(Gap(metric, masked, x, y, low, high, how))
    return gaps_of_metrics


def _error(source: Source, metric: str, masked: bool) -> float:
    """Standard error over users of a source's figure: from its ranks, else the most that a mean of numbers in
    [0, 1] can have, which for Recall is the binomial one."""
    if source.gains:
        own = source.gains.values(SPLITS[masked], metric)
        return float(own.std(ddof=1) / math.sqrt(len(own)))
    mean = source.figures[metric, masked]
    return math.sqrt(mean * (1 - mean) / source.users) if source.users else math.nan


def same_data(a: Source, b: Source) -> bool:
    """Whether both are of one prepared dataset; of a published figure, of equal counts."""
    names = COUNTS if a.published or b.published else ("data.key",)
    return all(name in a.settings and a.settings[name] == b.settings.get(name) for name in names)


def explain(a: Source, b: Source) -> dict[str, Any]:
    """The differences between two sources, JSON-able."""
    metrics = gaps(a, b)
    return {
        "a": _described(a),
        "b": _described(b),
        "same_data": same_data(a, b),
        "settings": [
            {**asdict(difference), "stated": difference.stated}
            for difference in differences(a.settings, b.settings, (a.published, b.published))
        ],
        "metrics": [
            {
                "metric": gap.metric, "history_masked": gap.masked, "a": gap.a, "b": gap.b,
                "difference": gap.a - gap.b, "low": gap.low, "high": gap.high, "interval": gap.how,
            }
            for gap in metrics
        ],
        "notes": [*_data(a, b), *_intervals(a, b, metrics), *_seeds(a, b), *a.notes, *b.notes],
    }  # fmt: skip


def _described(source: Source) -> dict[str, Any]:
    several = len(source.seeds) > 1
    return {
        "name": source.name,
        "what": source.description,
        "users": source.users,
        "seeds": source.seeds,
        "defaults": dict(source.defaults),
        "sd_over_seeds": {metric: source.spread(metric) for metric in source.metrics} if several else {},
    }


def _data(a: Source, b: Source) -> list[str]:
    notes = [] if same_data(a, b) else ["The data differ, which alone may cause a difference in a metric."]
    if a.published != b.published:
        notes.append("Whether the paper masks the history is not stated: its figure is compared with both.")
    return notes


def _intervals(a: Source, b: Source, metrics: list[Gap]) -> list[str]:
    hows = {gap.how for gap in metrics}
    notes = []
    if BOOTSTRAP in hows:
        notes.append(
            f"Interval: 95 %, percentile bootstrap over the same {a.users:,} users and over the seeds of a "
            "source that has several. With one seed the interval is for the weights as trained."
        )
    if ERRORS in hows:
        counted = " and ".join(
            f"{source.users:,}" if source.users else "an unknown number of" for source in (a, b)
        )
        notes.append(
            f"Interval: 1.96 standard errors of two independent means over {counted} users. Where both are "
            "of the same users, who vary together, it is wider than need be. A source without ranks has the "
            "binomial error, which for NDCG is the most that it can be."
        )
    return notes


def _seeds(a: Source, b: Source) -> list[str]:
    parts = []
    for name, source in (("A", a), ("B", b)):
        if source.published:
            parts.append(f"{name}: not stated")
        elif len(source.seeds) == 1:
            parts.append(f"{name}: one, so that its spread is unknown")
        else:
            metric = source.metrics[0]
            parts.append(
                f"{name}: {len(source.seeds)}, masked {measure(metric).label} with a standard deviation of "
                f"{share(source.spread(metric))}"
            )
    return [f"Seeds of {'; of '.join(parts)}."]


def show(result: dict[str, Any]) -> str:
    """The result of `explain` as text for a terminal."""
    from tabulate import tabulate

    look: dict[str, Any] = {"tablefmt": "simple", "disable_numparse": True}
    shown = {name: [visible_line(result[name][key]) for key in ("name", "what")] for name in "ab"}
    parts = ["\n".join(f"{name.upper()}  {own}\n   {what}" for name, (own, what) in shown.items())]
    for title, stated in (("Settings that differ", True), ("Settings that only one source states", False)):
        rows = [
            [
                row["topic"],
                row["name"],
                *(textwrap.shorten(visible_line(row[name]), 44, placeholder="...") for name in "ab"),
            ]
            for row in result["settings"]
            if row["stated"] == stated
        ]
        table = tabulate(rows, ["topic", "setting", "A", "B"], **look) if rows else "none"
        if rows or stated:
            parts.append(f"{title}, those with the largest known effect on results first\n{table}")
    rows = [
        [
            measure(row["metric"]).label + (", history masked" if row["history_masked"] else ""),
            share(row["a"]), share(row["b"]), signed(row["difference"]),
            f"{signed(row['low'])} to {signed(row['high'])}",
        ]
        for row in result["metrics"]
    ]  # fmt: skip
    heads = ["test metric", "A", "B", "A - B", "95 % interval"]
    table = tabulate(rows, heads, colalign=["left", *["right"] * 4], **look) if rows else "none in common"
    parts.append(f"Difference in each metric\n{table}")
    for name in "ab":
        if defaults := result[name]["defaults"]:
            listed = ", ".join(f"{setting}={value}" for setting, value in defaults.items())
            parts.append(f"Settings of {name.upper()} that nobody chose\n{textwrap.fill(listed, WIDTH)}")
    notes = [textwrap.fill(note, WIDTH) for note in result["notes"]]
    return "\n\n".join([*parts, "\n".join(notes)])
