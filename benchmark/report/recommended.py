"""What the rows of a table recommend, and to whom: measures and overlap of their lists, and their quality by
history length and by popularity of the target. All of it leaves out the user's history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.report.section import Block, Cell, Section, configuration
from benchmark.results.figures import Results
from benchmark.results.groups import HEADLINE, RunGroup, RunRow
from benchmark.results.list_metrics import LIST_METRICS, list_measure
from benchmark.results.measures import NO_FIGURE, count, share, with_interval
from benchmark.results.metrics import measure
from benchmark.results.statistics import estimate
from benchmark.results.store import StoredRun
from benchmark.results.targets import NO_ITEM, StoredLists

K = 10
MEASURES = tuple(f"{name}@{K}" for name in LIST_METRICS)
SEVERAL = "Groups are of test targets here: a target of a user with n of them has the weight 1/n."
QUARTILES = (0.25, 0.5, 0.75)
GROUPINGS: dict[str, tuple[str, Callable[[StoredLists], NDArray[np.int32]]]] = {
    "history length": ("interactions before the target", lambda lists: lists.history),
    "popularity of the target": ("training interactions of the target", lambda lists: lists.target_count),
}
"""What users are grouped by -> its unit, and how lists have it."""


@dataclass(frozen=True)
class ListedRow:
    """A row of a table and those of its runs that have lists, each of another seed."""

    row: RunRow
    runs: Mapping[int, StoredRun]

    @property
    def lists(self) -> dict[int, StoredLists]:
        """Seed -> lists."""
        return {seed: run.lists for seed, run in self.runs.items() if run.lists is not None}

    @property
    def cell(self) -> Cell:
        """The label, linked to the configuration."""
        return Cell(self.row.label, record=self.row.configuration)


@dataclass(frozen=True)
class TargetGroup:
    """Test targets whose value lies in one range."""

    label: str
    """`3-7`, or one number."""
    targets: NDArray[np.int64]
    """Their places among the targets, which are in the order of users."""


def sections(results: Results) -> list[Section]:
    """A section for each table in which a run has lists."""
    made = []
    for stem, group in results.groups.items():
        rows = [
            ListedRow(row, {run.record.seed: run for run in row.finished if run.lists is not None})
            for row in group.run_rows
        ]
        if any(row.runs for row in rows):
            made.append(_section(stem, group, rows))
    return made


def _section(stem: str, group: RunGroup, rows: Sequence[ListedRow]) -> Section:
    first = next(lists for row in rows for lists in row.lists.values())
    same = [row for row in rows if row.runs and _same_users(row, first)]
    bare = [row.row.label for row in rows if row.row.finished and row not in same]
    parts = [_measures(same)]
    if len(same) > 1 or len(same[0].runs) > 1:
        parts.append(_overlap(same))
    parts += [_by_group(name, first, same) for name in GROUPINGS]
    return Section(
        f"{stem}-recommended",
        f"Recommended items and groups of users: {group.key.title}",
        f"The {K} best items of each test user, the history left out. {group.caption}",
        [block for block, _ in parts],
        [
            *_notes(),
            *([SEVERAL] if first.has_several else []),
            *([f"Without lists of items, or with other users: {', '.join(bare)}."] if bare else []),
        ],
        lines=[{**group.key._asdict(), **line} for _, lines in parts for line in lines],
        records={row.row.configuration: configuration(row.row.stored) for row in same},
    )


def _same_users(row: ListedRow, first: StoredLists) -> bool:
    return all(
        np.array_equal(lists.user, first.user) and np.array_equal(lists.target, first.target)
        for lists in row.lists.values()
    )


def _measures(rows: Sequence[ListedRow]) -> tuple[Block, list[dict[str, Any]]]:
    """The measures of lists of the rows, means over their seeds."""
    measures = [list_measure(name) for name in MEASURES]
    cells, lines = [], []
    for row in rows:
        means = [estimate(lists.value(listed) for lists in row.lists.values()) for listed in measures]
        texts = [
            with_interval(mean, share if listed.metric.is_share else count) if mean else NO_FIGURE
            for listed, mean in zip(measures, means, strict=True)
        ]
        seeds = NO_FIGURE if row.row.untrained else str(len(row.runs))
        cells.append([row.cell, *map(Cell, texts), Cell(seeds)])
        figures = {name: mean and mean.mean for name, mean in zip(MEASURES, means, strict=True)}
        lines.append({"figures": "lists", "row": row.row.label, **figures})
    heads = ["row", *(listed.label for listed in measures), "seeds"]
    return Block(f"The first {K} items of all users", heads, cells), lines


def overlap(a: StoredLists, b: StoredLists, k: int = K) -> float:
    """Mean over users of the share of common items in the first `k` of two lists."""
    x, y = a.items[:, :k], b.items[:, :k]
    common = ((x[:, :, None] == y[:, None, :]) & (x != NO_ITEM)[:, :, None]).sum((1, 2))  # [T]
    most = np.maximum((x != NO_ITEM).sum(1), (y != NO_ITEM).sum(1))
    return float(np.average(common / np.maximum(most, 1), weights=a.weight))


def _overlap_of(a: ListedRow, b: ListedRow) -> float | None:
    """The mean over seeds that both rows have, or else over all pairs; of one row over pairs of its seeds."""
    if a is b:
        pairs = list(combinations(a.lists.values(), 2))
    else:
        matched = [(a.lists[seed], b.lists[seed]) for seed in a.lists if seed in b.lists]
        pairs = matched or [(x, y) for x in a.lists.values() for y in b.lists.values()]
    return float(np.mean([overlap(x, y) for x, y in pairs])) if pairs else None


def _overlap(rows: Sequence[ListedRow]) -> tuple[Block, list[dict[str, Any]]]:
    values = {(i, j): _overlap_of(rows[i], rows[j]) for i in range(len(rows)) for j in range(i, len(rows))}
    cells = []
    for i, row in enumerate(rows):
        found = [values[min(i, j), max(i, j)] for j in range(len(rows))]
        cells.append([row.cell, *(Cell(NO_FIGURE if value is None else share(value)) for value in found)])
    lines = [
        {"figures": "overlap", "row": rows[i].row.label, "other": rows[j].row.label, f"overlap@{K}": value}
        for (i, j), value in values.items()
    ]
    return Block(f"Overlap of the first {K} items", ["row", *(row.row.label for row in rows)], cells), lines


def quartiles(values: NDArray[np.int32]) -> list[TargetGroup]:
    """Targets in up to four groups of about equal size by value; those of equal value are in one group."""
    cuts = np.unique(np.quantile(values, QUARTILES, method="lower"))
    numbers = np.searchsorted(cuts, values)  # the values up to a cut are below it
    groups = []
    for number in np.unique(numbers):
        targets = np.flatnonzero(numbers == number)
        low, high = int(values[targets].min()), int(values[targets].max())
        groups.append(TargetGroup(f"{low:,}" if low == high else f"{low:,}-{high:,}", targets))
    return groups


def _by_group(name: str, lists: StoredLists, rows: Sequence[ListedRow]) -> tuple[Block, list[dict[str, Any]]]:
    """Quality of the rows, whose targets are those of `lists`; a group is a weighted mean of its targets."""
    unit, values = GROUPINGS[name]
    groups, weight = quartiles(values(lists)), lists.weight
    counted = "targets" if lists.has_several else "users"
    measures = [measure(metric) for metric in HEADLINE]
    cells, lines = [], []
    for row in rows:
        line = [row.cell]
        for ranked in measures:
            gains = np.mean([ranked.gains(run.ranks.masked) for run in row.runs.values()], axis=0)  # [T]
            for group in groups:
                value = float(np.average(gains[group.targets], weights=weight[group.targets]))
                line.append(Cell(share(value)))
                lines.append(
                    {
                        "figures": f"by {name}", "row": row.row.label, "range": group.label,
                        counted: len(group.targets), f"test_masked_{ranked.name}": value,
                    }
                )  # fmt: skip
        cells.append(line)
    sizes = [Cell(f"{len(group.targets):,}") for _ in measures for group in groups]
    heads = ["row", *(f"{ranked.label}, {group.label}" for ranked in measures for group in groups)]
    title = f"Masked quality by {name} ({unit})"
    return Block(title, heads, [*cells, [Cell(counted), *sizes]], 1), lines


def _notes() -> list[str]:
    titles = " ".join(f"{list_measure(name).label}: {list_measure(name).metric.title}." for name in MEASURES)
    return [
        f"{titles} ±: half-width of the 95 % t interval over seeds.",
        "Overlap: mean over users of the share of common items, between runs of equal seed where there are "
        "any; of a row with itself between its seeds, which shows how much the seed alone changes.",
        "Groups of users: quartiles of the test users; users of equal value stay together, so that groups "
        "may differ in size and be fewer than four. Figures are means over seeds.",
    ]
