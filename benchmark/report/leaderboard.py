"""The leaderboard of a store: all of its rows, those that others submitted among them, under what they share.

A table holds rows that may be compared in quality: one dataset, language model and protocol hash, on whatever
hardware. Records that others submitted stand here alone: no other section reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from benchmark.report.differences import seeds_of
from benchmark.report.section import Block, Cell, Section, configuration
from benchmark.results.advice import Clock, clock_of
from benchmark.results.comparable import shortened
from benchmark.results.figures import Results
from benchmark.results.groups import HEADLINE, Key, RunGroup, RunRow, note
from benchmark.results.index import SUBMITTED, Entry
from benchmark.results.measures import count, quality
from benchmark.results.statistics import SeedMean
from benchmark.results.store import StoredRun

COST, TRIALS = "total cost", "trials"
LOCAL = "local"
"""Stands in place of a level where a record is in no entry of the index."""
COLUMNS = [quality("test_masked", metric) for metric in HEADLINE]
SHARED = Key._fields[:5]
"""What all rows of a table share: dataset, data, language model, protocol and its hash."""
HARDWARE = ("device_name", "world_size", "precision")
NOTES = (
    "A table holds rows of one dataset, language model and protocol hash: the same data and settings, save "
    "those in which rows of a table may differ. They stand in the order of masked R@10, without a rank, "
    "since the order says little where intervals overlap.",
    "±: half the width of the 95 % bootstrap interval over users and seeds, over users alone where there is "
    "one seed.",
    "Total cost: preparation, the search for hyper-parameters, and training up to the chosen epoch, mean "
    "over seeds; CPU seconds where all rows of one source were trained on a CPU, else wall seconds. Compare "
    "it on one hardware alone.",
    "Trials: configurations among which validation chose; the values of another row's search count as 1.",
    "Checked: the level that all records of a row reached when they were added (docs/verify.md). L2: every "
    "figure follows from ranks, which may have been invented. L3: the ranks fit the data as well. L4: the "
    "stored embeddings give these ranks. local: a record is not in the index.",
    "From: the project, or who submitted the row. Submitted rows were not run again; any reader can verify "
    "their bundle (adaptrec verify), and they stand in no other table of this report.",
)


@dataclass(frozen=True)
class Ranked:
    """A row of the leaderboard."""

    row: RunRow
    group: RunGroup
    """The table that it comes from: of the project's rows, or of one bundle."""
    entries: tuple[Entry | None, ...]
    """The entries of its finished runs; None for a local one."""

    @property
    def bundle(self) -> str:
        """File name of the bundle that it came by; empty of the project's own."""
        first = self.entries[0]
        return (first.bundle or "") if first else ""

    @property
    def level(self) -> str:
        """The lowest level of its runs."""
        levels = [entry.level for entry in self.entries if entry]
        return min(levels) if len(levels) == len(self.entries) else LOCAL

    @property
    def source(self) -> str:
        """Whose it is."""
        first = self.entries[0]
        if first is None:
            return LOCAL
        return f"{first.by} (submitted)" if self.bundle else first.by

    @property
    def name(self) -> str:
        """What names it among all rows."""
        return f"{self.bundle} {self.row.configuration}".strip()

    @property
    def trials(self) -> int:
        """Configurations among which validation chose."""
        return max(run.trials for run in self.row.ok)

    @property
    def clock(self) -> Clock:
        """How its seconds are counted."""
        return clock_of(self.group.run_rows)

    @property
    def cost(self) -> float:
        """Total seconds."""
        return self.clock.parts(self.row, self.group.run_rows).total

    def figure(self, metric: str) -> SeedMean | None:
        """A masked metric with its interval over users and seeds."""
        mean = self.row.mean(metric, "test_masked")
        half = self.group.compared.half_width(self.row.label, "test_masked", metric)
        return mean and replace(mean, half_width=half)


@dataclass
class Standings:
    """The rows that may be compared."""

    group: RunGroup
    """The first table of those that it joins."""
    places: list[Ranked] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What names it to a reader."""
        apart = [pair for pair in self.group.differs if pair.partition("=")[0] not in HARDWARE]
        more = f" ({', '.join(map(shortened, apart[:3]))})" if apart else ""
        return f"{self.group.key.title}{more}"

    def takes(self, group: RunGroup) -> bool:
        """Whether the rows of a table stand here; those without a language model do beside any."""
        mine, theirs = self.group.key, group.key
        control = all(row.untrained for row in group.run_rows)
        alike = control or (theirs.protocol, theirs.protocol_hash) == (mine.protocol, mine.protocol_hash)
        return theirs[:2] == mine[:2] and theirs.llm in (mine.llm, None) and alike

    def ranked(self) -> list[Ranked]:
        """Its rows by masked R@10, the best first."""
        values = [(place.figure(HEADLINE[0]), place) for place in self.places]
        values.sort(key=lambda pair: (-pair[0].mean if pair[0] else 0, pair[1].name))
        return [place for _, place in values]


def sections(results: Results) -> list[Section]:
    """The leaderboard of a folder of results with an index; nothing of one without."""
    made = boards(results) if results.entries else []
    if not made:
        return []
    blocks = [block(board) for board in made]
    records = {place.name: _behind(place) for board in made for place in board.places}
    lines = [line for board in made for line in _lines(board)]
    caption = "Every finished row of the store, with what was checked of it and who it is from."
    runs = [run for board in made for place in board.places for run in place.row.ok]
    notes = [*NOTES, *(f"{line}." for line in note(run.generation for run in runs))]
    return [Section("leaderboard", "All rows of the store", caption, blocks, notes, (), lines, records)]


def boards(results: Results) -> list[Standings]:
    """The tables of the leaderboard, in the order of the report's tables."""
    made: list[Standings] = []
    by_bundle: dict[str, list[StoredRun]] = {}
    for run in results.submitted:
        by_bundle.setdefault(results.entries[run.path].bundle or "", []).append(run)
    theirs = [Results(tuple(runs), metrics=results.metrics) for runs in by_bundle.values()]
    for source in (results, *theirs):
        for group in sorted(source.groups.values(), key=lambda group: group.key.llm is None):
            places = list(_places(group, results))
            hosts = [board for board in made if board.takes(group)]
            if not hosts:
                hosts = [Standings(group)]
                made += hosts
            for board in hosts:  # a control stands in several tables, and here once
                known = {place.name for place in board.places}
                board.places += [place for place in places if place.name not in known]
    return [board for board in made if board.places]


def _places(group: RunGroup, results: Results) -> Iterator[Ranked]:
    for row in group.run_rows:
        if row.finished:
            yield Ranked(row, group, tuple(results.entries.get(run.path) for run in row.finished))


def block(board: Standings) -> Block:
    """The table of a board."""
    key, places = board.group.key, board.ranked()
    bundles = any(place.bundle for place in places)
    heads = [
        "row",
        "checked",
        "from",
        *(f"masked {column.label}" for column in COLUMNS),
        "seeds",
        TRIALS,
        COST,
    ]
    heads += [*(["bundle"] if bundles else []), "hardware"]
    facets = {"dataset": key.dataset, "language model": key.llm or "none", "protocol": key.protocol}
    limits = {name: heads.index(name) for name in (COST, TRIALS)}
    return Block(
        board.title, heads, [_cells(place, bundles) for place in places], facets=facets, limits=limits
    )


def _cells(place: Ranked, bundles: bool) -> list[Cell]:
    unit = "CPU s" if place.clock.on_cpu else "s"
    figures = [(column, place.figure(column.name)) for column in COLUMNS]
    texts = [column.show(figure) if figure else "n/a" for column, figure in figures]
    texts += [seeds_of(place.row), str(place.trials), f"{count(place.cost)} {unit}"]
    download = Cell(place.bundle, link=f"{SUBMITTED}/{place.bundle}" if place.bundle else "")
    cells = [
        Cell(place.row.label),
        Cell(place.level, badge=LOCAL if place.level == LOCAL else "level"),
        Cell(place.source, badge="submitted" if place.bundle else ""),
        *map(Cell, texts),
        *([download] if bundles else []),
        Cell(place.group.hardware),
    ]
    return [cell if cell.link else replace(cell, record=place.name) for cell in cells]


def _behind(place: Ranked) -> dict[str, Any]:
    """The configuration of a row; of a submitted one with the places of its files."""
    found = configuration(place.row.finished)
    files = [entry.record for entry in place.entries if entry]
    return {**found, "files": files} if place.bundle else found


def _lines(board: Standings) -> Iterator[dict[str, Any]]:
    for place in board.ranked():
        figures = {column.name: place.figure(column.name) for column in COLUMNS}
        yield {
            **dict(zip(SHARED, board.group.key, strict=False)),
            "row": place.row.label,
            **{f"test_masked_{name}": figure and figure.mean for name, figure in figures.items()},
            **{f"half_width_{name}": figure and figure.half_width for name, figure in figures.items()},
            "seeds": len(place.row.ok),
            "trials": place.trials,
            "clock": place.clock.unit,
            "total": place.cost,
            "hardware": place.group.hardware,
            "checked": place.level,
            "by": place.source,
            "bundle": place.bundle,
            "entries": " ".join(str(entry.entry) for entry in place.entries if entry),
        }
