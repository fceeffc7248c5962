"""A part of the report: tables and plots under one heading, and the configurations behind their figures.

What makes figures builds sections; what writes files and pages reads them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from benchmark.config import SEARCHED
from benchmark.results.published import has_best_values
from benchmark.results.record import RunRecord, below_results
from benchmark.results.store import StoredRun
from benchmark.results.tuning import Tuning

SHOWN_ENVIRONMENT = (
    "device_name", "device", "world_size", "threads", "precision", "python", "platform", "git_commit",
    "git_dirty",
)  # fmt: skip
Mark = Literal["", "best"]
"""`best`: of the best row of a column, and of all rows whose difference from it is not shown."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    mark: Mark = ""
    record: str = ""
    """Name of the run or published figure behind it, a key of `Section.records`; empty where none is."""
    badge: str = ""
    """Kind of badge as which the page shows it: `level`, `local`, `submitted`; empty for none."""
    link: str = ""
    """A file to download, below the folder of the results; empty where there is none."""


@dataclass(frozen=True)
class Block:
    """One table: a title, heads, and rows; the first column is the label and left-aligned."""

    title: str
    heads: list[str]
    rows: list[list[Cell]]
    bounds: int = 0
    """How many rows at the end are bounds and stand below a rule."""
    facets: Mapping[str, str] = field(default_factory=dict)
    """What tells it from other tables of its section, by which a reader of the page may choose."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Columns for which a reader of the page may give the most that a row may have: name -> place."""


@dataclass(frozen=True)
class Plot:
    """A drawn figure in its two forms."""

    name: str
    """Last part of the file name."""
    heading: str
    """Also its text for those who cannot see it."""
    forms: Mapping[str, bytes]
    """`png` and `svg`; empty where no figure has what the plot shows."""


@dataclass(frozen=True)
class Section:
    """Tables and plots that belong together; one `.md`, `.tex` and `.csv` file, and a part of the page."""

    stem: str
    """File name without suffix."""
    title: str
    caption: str
    """Everything that a reader must know to tell these figures from others."""
    blocks: Sequence[Block]
    notes: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    lines: Sequence[Mapping[str, Any]] = ()
    """The figures in full precision for the CSV, a dictionary a line; None is empty."""
    records: Mapping[str, Any] = field(default_factory=dict)
    """Name that a `Cell.record` gives -> the configuration behind it, JSON-able: of runs `configuration`."""
    plots_first: bool = False
    """Whether plots stand before the tables."""

    def __post_init__(self) -> None:
        known = {"", *self.records}
        for cell in (cell for block in self.blocks for row in block.rows for cell in row):
            if cell.record not in known:
                raise ValueError(f"section {self.stem}: cell '{cell.text}' names no record: {cell.record}")


class Chapter(NamedTuple):
    """Sections of one kind, under a heading."""

    heading: str
    sections: Sequence[Section]


def configuration(stored: Sequence[StoredRun]) -> dict[str, Any]:
    """The configuration that runs, one a seed, have in common, the command to make them again, their files.

    JSON-able. Two keys mean something to the page: `command` is code, `files` are links below the results.
    """
    runs = [run.record for run in stored]
    first = runs[0]
    packages = first.environment.packages
    environment = {name: getattr(first.environment, name) for name in SHOWN_ENVIRONMENT}
    trained = [
        "not trained"
        if run.untrained and run.status == "ok"
        else f"{run.epochs_run} epochs, the best {run.best_epoch}"
        if run.status == "ok"
        else run.status
        for run in runs
    ]
    return {
        "command": _command(runs),
        "files": [below_results(run.path) for run in stored],
        "dataset": first.dataset,
        "language model": first.llm or "none",
        "method": first.method,
        "protocol": first.protocol,
        "overrides": list(first.overrides),
        "seeds": {f"seed {run.seed}": status for run, status in zip(runs, trained, strict=True)},
        "tuning": _tuning(first.tuning),
        "hyper-parameters": dict(first.hyperparameters),
        "settings": dict(first.settings),
        "data": {"key": first.data.get("key"), **_plain(first.data.get("fingerprint") or {})},
        "language model, details": dict(first.llm_details),
        "environment": {**environment, "packages": ", ".join(f"{n} {v}" for n, v in packages.items())},
        **({"generation of the harness": first.generation} if first.generation else {}),
        "configuration hash": first.config_hash,
        "protocol hash": first.protocol_hash,
        "made": ", ".join(run.created for run in runs),
    }


def _tuning(search: Tuning | None) -> dict[str, Any]:
    """Where hyper-parameters come from; empty where from the protocol and the user alone."""
    if search is None:
        return {}
    summary: dict[str, Any] = {
        "mode": search.mode,
        "chosen": list(search.chosen),
        "source": search.source,
        "searched": search.grid,
    }
    if search.trials:
        summary |= {
            "trials": len(search.trials),
            "seed": search.seed,
            "seconds": round(search.train_seconds, 1),
        }
    return {name: value for name, value in summary.items() if value}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is nested: counts that only a reader of the record needs."""
    return {name: value for name, value in values.items() if not isinstance(value, (dict, list))}


def _command(runs: Sequence[RunRecord]) -> str:
    run = runs[0]
    words = ["python", "-m", "benchmark", "bench", "--datasets", run.dataset]
    words += (run.data.get("recipe") or {}).get("given", [])
    words += ["--llms", run.llm] if run.llm else []
    words += ["--methods", run.method, "--protocols", run.protocol]
    if run.protocol == SEARCHED or has_best_values(run.llm or "", run.dataset):  # bench would tune
        words += ["--tune", "none"]
    words += ["--seeds", ",".join(str(record.seed) for record in runs)]
    if run.environment.world_size > 1:
        words += ["--processes", str(run.environment.world_size)]
    return shlex.join(words + (["--set", *run.overrides] if run.overrides else []))
