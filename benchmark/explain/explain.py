"""Why two figures differ: the settings behind them, and the difference in each metric with its interval."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import numpy as np

from benchmark.explain.settings import differences
from benchmark.explain.sources import Side
from benchmark.report.differences import signed
from benchmark.results.measures import share
from benchmark.results.metrics import measure
from benchmark.results.published import COUNTS
from benchmark.results.statistics import bootstrap

Z = 1.959964
"""Of a 95 % normal interval."""
WIDTH = 110
"""Columns of prose on a terminal."""


@dataclass(frozen=True)
class Gap:
    """The difference in one metric."""

    metric: str
    masked: bool
    """Whether the history is masked, as far as the sides know."""
    a: float
    b: float
    low: float
    high: float
    """95 % interval of `a - b`."""
    how: str
    """BOOTSTRAP or ERRORS."""


BOOTSTRAP = "bootstrap over users"
ERRORS = "standard errors of independent sides"


def gaps(a: Side, b: Side) -> list[Gap]:
    """The difference in each metric that both sides have, raw and with the history masked."""
    found = []
    for masked in (False,) if a.published and b.published else (False, True):
        one, other = a.gains.get(masked), b.gains.get(masked)
        paired = one is not None and other is not None and same_data(a, b)
        intervals: dict[str, tuple[float, float]] = {}
        if paired and one is not None and other is not None and np.array_equal(one.user, other.user):
            values = np.concatenate([one.mean, other.mean], axis=1)
            width = len(a.metrics)
            bounds = bootstrap(values, [(column, column + width) for column in range(width)])
            intervals = {name: (float(bounds[i, 0]), float(bounds[i, 1])) for i, name in enumerate(a.metrics)}
        for metric in dict.fromkeys((*a.metrics, *b.metrics)):
            key = (metric, masked)
            if key not in a.figures or key not in b.figures:
                continue
            x, y = a.figures[key], b.figures[key]
            how = BOOTSTRAP if intervals else ERRORS
            half = Z * math.hypot(_error(a, metric, masked), _error(b, metric, masked))
            low, high = intervals.get(metric, (x - y - half, x - y + half))
            found.append(Gap(metric, masked, x, y, low, high, how))
    return found


def _error(side: Side, metric: str, masked: bool) -> float:
    """Standard error over users of a side's figure: from its ranks, else the most that a mean of numbers in
    [0, 1] can have, which for Recall is the binomial one."""
    if gains := side.gains.get(masked):
        own = gains.mean[:, side.metrics.index(metric)]
        return float(own.std(ddof=1) / math.sqrt(len(own)))
    mean = side.figures[metric, masked]
    return math.sqrt(mean * (1 - mean) / side.users) if side.users else math.nan


def same_data(a: Side, b: Side) -> bool:
    """Whether both are of one prepared dataset; of a published figure, of equal counts."""
    names = COUNTS if a.published or b.published else ("data.key",)
    return all(name in a.facts and a.facts[name] == b.facts.get(name) for name in names)


def explain(a: Side, b: Side) -> dict[str, Any]:
    """Everything that is to be said of the two, JSON-able."""
    found = gaps(a, b)
    return {
        "a": _described(a),
        "b": _described(b),
        "same_data": same_data(a, b),
        "settings": [
            {"topic": one.topic, "name": one.name, "a": one.a, "b": one.b, "stated": one.stated}
            for one in differences(a.facts, b.facts, (a.published, b.published))
        ],
        "metrics": [
            {
                "metric": gap.metric, "history_masked": gap.masked, "a": gap.a, "b": gap.b,
                "difference": gap.a - gap.b, "low": gap.low, "high": gap.high, "interval": gap.how,
            }
            for gap in found
        ],
        "notes": [*_data(a, b), *_intervals(a, b, found), *_seeds(a, b), *a.notes, *b.notes],
    }  # fmt: skip


def _described(side: Side) -> dict[str, Any]:
    several = len(side.seeds) > 1
    return {
        "name": side.name,
        "what": side.what,
        "users": side.users,
        "seeds": sorted(side.seeds),
        "sd_over_seeds": {metric: _spread(side, metric) for metric in side.metrics} if several else {},
    }


def _spread(side: Side, metric: str) -> float:
    return stdev(figures[metric, False] for figures in side.seeds.values())


def _data(a: Side, b: Side) -> list[str]:
    said = [] if same_data(a, b) else ["The data differ: a difference in a metric may be theirs alone."]
    if a.published != b.published:
        said.append(
            "Whether the paper masks the history is not stated: its figure stands beside both of the run's."
        )
    return said


def _intervals(a: Side, b: Side, found: list[Gap]) -> list[str]:
    hows = {gap.how for gap in found}
    said = []
    if BOOTSTRAP in hows:
        said.append(
            f"Interval: 95 %, percentile bootstrap over the same {a.users:,} users, each with the mean of a "
            "side's seeds."
        )
    if ERRORS in hows:
        counted = " and ".join(f"{side.users:,}" if side.users else "an unknown number of" for side in (a, b))
        said.append(
            f"Interval: 1.96 standard errors of two independent means over {counted} users. Where both are "
            "of the same users, who vary together, it is wider than need be. A side without ranks has the "
            "binomial error, which for NDCG is the most that it can be."
        )
    return said


def _seeds(a: Side, b: Side) -> list[str]:
    parts = []
    for name, side in (("A", a), ("B", b)):
        if side.published:
            parts.append(f"{name}: not stated")
        elif len(side.seeds) == 1:
            parts.append(f"{name}: one, so that its spread is unknown")
        else:
            metric = side.metrics[0]
            parts.append(
                f"{name}: {len(side.seeds)}, {measure(metric).label} with a standard deviation of "
                f"{share(_spread(side, metric))}"
            )
    return [f"Seeds of {'; of '.join(parts)}. The interval is over users, for the weights as trained."]


def show(found: dict[str, Any]) -> str:
    """What `explain` found, for a terminal."""
    from tabulate import tabulate

    look: dict[str, Any] = {"tablefmt": "simple", "disable_numparse": True}
    parts = ["\n".join(f"{name.upper()}  {found[name]['name']}\n   {found[name]['what']}" for name in "ab")]
    for title, stated in (("Settings that differ", True), ("Settings that one side does not state", False)):
        rows = [
            [
                one["topic"],
                one["name"],
                *(textwrap.shorten(one[side], 44, placeholder="...") for side in "ab"),
            ]
            for one in found["settings"]
            if one["stated"] == stated
        ]
        table = tabulate(rows, ["topic", "setting", "A", "B"], **look) if rows else "none"
        if rows or stated:
            parts.append(f"{title}, those first that are known to move results most\n{table}")
    rows = [
        [
            measure(one["metric"]).label + (", history masked" if one["history_masked"] else ""),
            share(one["a"]), share(one["b"]), signed(one["difference"]),
            f"{signed(one['low'])} to {signed(one['high'])}",
        ]
        for one in found["metrics"]
    ]  # fmt: skip
    heads = ["test metric", "A", "B", "A - B", "95 % interval"]
    table = tabulate(rows, heads, colalign=["left", *["right"] * 4], **look) if rows else "none in common"
    parts.append(f"Difference in each metric\n{table}")
    notes = [textwrap.fill(note, WIDTH) for note in found["notes"]]
    return "\n\n".join([*parts, "\n".join(notes)])
