"""One table of runs: what its rows share, the means of each row, and what tells the table from others.

A row is marked where an older generation of the harness made its figures than the newest in the table: where
`RunRecord.generation` of one of its finished runs is less than the largest of all (docs/records.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.results.compared import ComparedRows, compared
from benchmark.results.metrics import of_ranks
from benchmark.results.record import RunRecord
from benchmark.results.schema import METRICS, Fingerprint
from benchmark.results.statistics import SeedMean
from benchmark.results.store import StoredRun
from benchmark.results.tuning import Tuning

HEADLINE = ("recall@10", "ndcg@10")
"""Metrics by which rows are compared unless others are asked for, with the history masked."""
MARK = " \N{DAGGER}"
"""Ends the label of a row that is older."""


def newest(runs: Iterable[RunRecord]) -> int:
    """The largest generation of the finished runs; 0 where there is none."""
    return max((run.generation for run in runs if run.status == "ok"), default=0)


def oldest(runs: Iterable[RunRecord], other: int) -> int:
    """The least generation of the finished runs; `other` where there is none."""
    return min((run.generation for run in runs if run.status == "ok"), default=other)


def mark(label: str, older: bool) -> str:
    """The label, with the mark where its figures are older."""
    return label + MARK if older and not label.endswith(MARK) else label


def bare(label: str) -> str:
    """The label without the mark."""
    return label.removesuffix(MARK)


def note(generations: Iterable[int]) -> list[str]:
    """What the mark means, a sentence; nothing where all figures are of one generation."""
    known = sorted(set(generations))
    if len(known) < 2:
        return []
    older = " and ".join(map(str, known[:-1]))
    return [
        f"{MARK.strip()}: measured by generation {older} of the harness, the newest here is {known[-1]}; "
        "generations differ in how they measure (docs/records.md), which may explain a part of a difference"
    ]


class Key(NamedTuple):
    """What all rows of a table share."""

    dataset: str
    data_key: str
    llm: str | None
    protocol: str
    protocol_hash: str
    device_name: str
    world_size: int
    precision: str

    @property
    def title(self) -> str:
        """Dataset, language model and protocol, as headings name them."""
        return f"{self.dataset}, {self.llm or 'no language model'}, protocol {self.protocol}"


@dataclass(frozen=True)
class RunRow:
    """The runs of one configuration, one a seed; or a bound (`chance`, `ceiling`), which has no runs."""

    label: str
    stored: tuple[StoredRun, ...] = ()
    means: Mapping[tuple[str, str], SeedMean] = field(default_factory=dict)
    """(measure, split) -> mean over the finished seeds; the split is empty where the long table has none, and
    `tuned` of hyper-parameters that a search chose."""
    tuning: Tuning | None = None
    """How the configuration was chosen, where it was."""
    configured: str = ""
    """The label without how the configuration was chosen; the label itself where that is not known."""

    @property
    def name(self) -> str:
        """What the row is, but for how its configuration was chosen."""
        return self.configured or self.label

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """The records of the runs."""
        return tuple(run.record for run in self.stored)

    @property
    def untrained(self) -> bool:
        """Whether it is of a control, which has no epochs and no seeds."""
        return bool(self.runs) and self.runs[0].untrained

    @property
    def finished(self) -> tuple[StoredRun, ...]:
        """The runs that came to their end."""
        return tuple(run for run in self.stored if run.record.status == "ok")

    @property
    def ok(self) -> tuple[RunRecord, ...]:
        """Their records."""
        return tuple(run.record for run in self.finished)

    @property
    def configuration(self) -> str:
        """The name of the configuration of its runs; see `StoredRun`."""
        return self.stored[0].configuration

    @property
    def status(self) -> str:
        """`ok` where one run at least is; else the statuses that occur."""
        return "ok" if self.ok or not self.runs else ", ".join(sorted({run.status for run in self.runs}))

    def mean(self, measure: str, split: str = "") -> SeedMean | None:
        """A measure over the finished seeds, or of the bound; None where nothing was measured."""
        return self.means.get((measure, split))


@dataclass(frozen=True)
class RunGroup:
    """One table."""

    key: Key
    rows: tuple[RunRow, ...]
    bounds: tuple[RunRow, ...]
    """`chance`, `ceiling`."""
    shared: tuple[str, ...]
    """Overrides that every row has."""
    metrics: tuple[str, ...] = METRICS
    """The measures that it shows, raw and masked."""
    differs: tuple[str, ...] = ()
    """What sets it apart, as `key=value`, from other tables of its dataset, language model and protocol."""
    controls: tuple[RunRow, ...] = ()
    """Controls of the data and language model, which stand in each of their tables; a table without trained
    rows has them among `rows`."""

    @property
    def run_rows(self) -> tuple[RunRow, ...]:
        """The rows that have runs: trained ones, then controls."""
        return self.rows + self.controls

    @property
    def foot(self) -> tuple[RunRow, ...]:
        """The rows below the trained ones: controls, then bounds."""
        return self.controls + self.bounds

    @property
    def tested(self) -> tuple[str, ...]:
        """The rank metrics under which differences of rows are printed."""
        asked = of_ranks(self.metrics)
        return HEADLINE if asked == METRICS else asked or HEADLINE

    @cached_property
    def compared(self) -> ComparedRows:
        """Its finished rows, controls included, user by user under all rank metrics of its CSV file."""
        runs = {row.label: row.finished for row in self.run_rows if row.finished}
        return compared(runs, tuple(dict.fromkeys((*METRICS, *of_ranks(self.metrics)))))

    @property
    def hardware(self) -> str:
        """Device, processes and precision."""
        key = self.key
        processes = f"{key.world_size} process{'es' if key.world_size > 1 else ''}"
        return f"{key.device_name}, {processes}, mixed precision: {key.precision}"

    def _data(self, part: str) -> Iterator[dict[str, Any]]:
        """A part of what its records know of their data, which is the same for all that have it."""
        found = (run.data.get(part) for row in self.run_rows for run in row.runs)
        return filter(None, found)

    @property
    def counts(self) -> dict[str, Any]:
        """The fingerprint of its data; empty where no record has it."""
        return next(self._data("fingerprint"), {})

    @property
    def time(self) -> str:
        """How interactions and test targets lie in time, as its records know it; empty where none does."""
        for counts in self._data("fingerprint"):
            if lines := Fingerprint.model_validate(counts).time_lines():
                return "; ".join(lines)
        return ""

    @property
    def missed(self) -> str:
        """The counts that the recipe expects and the data do not have; empty where there are none."""
        counts = self.counts
        recipes = [recipe for recipe in self._data("recipe") if recipe.get("expected")]
        expected = recipes[0]["expected"] if recipes else {}
        other = [f"{count:,} {name}" for name, count in expected.items() if counts.get(name) != count]
        return f"not the {', '.join(other)} that its recipe expects" if other else ""

    @property
    def caption(self) -> str:
        """Everything that a reader must know to tell this table from the others."""
        key, runs = self.key, [run for row in self.rows for run in row.runs]
        counts = self.counts
        sizes = [f"{counts[name]:,} {name}" for name in ("users", "items", "interactions") if name in counts]
        if users := counts.get("test_users"):
            sizes.append(f"{counts['test_targets']:,} test targets of {users:,} users")
        missed = f", {self.missed}" if self.missed else ""
        parts = [
            f"Dataset {key.dataset} ({', '.join([*sizes, f'data key {key.data_key}'])}){missed}",
            f"language model {key.llm or 'none'}",
            f"protocol {key.protocol} (hash {key.protocol_hash})",
            f"on {self.hardware}",
        ]
        if self.shared:
            parts.append(f"every row with {', '.join(self.shared)}")
        if self.differs:
            parts.append(f"differs from other tables of this name by {', '.join(self.differs)}")
        if cold := max((run.cold_targets for run in runs), default=0):
            parts.append(f"{cold:,} test targets are cold (never seen in training)")
        parts += note(run.generation for run in runs if run.status == "ok")
        return "; ".join(parts) + "."


def slug(name: str) -> str:
    """A text as part of a file name; of a path its last folder."""
    last = Path(name).name if Path(name).is_absolute() else name
    return re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-.") or "unnamed"
