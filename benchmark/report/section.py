"""A part of the report: tables and plots under one heading. What makes figures builds sections; what writes
files and pages reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Mark = Literal["", "best"]
"""`best`: of the best row of a column, and of all rows whose difference from it is not shown."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    mark: Mark = ""
    record: str = ""
    """Name of the run or published figure behind it, a key of `Section.records`; empty where none is."""


@dataclass(frozen=True)
class Block:
    """One table: a title, heads, and rows; the first column is the label and left-aligned."""

    title: str
    heads: list[str]
    rows: list[list[Cell]]
    bounds: int = 0
    """How many rows at the end are bounds and stand below a rule."""


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
    """Name that a `Cell.record` gives -> the configuration behind it, JSON-able; of runs, what
    `benchmark.report.provenance.configuration` gives."""

    def __post_init__(self) -> None:
        known = {"", *self.records}
        for cell in (cell for block in self.blocks for row in block.rows for cell in row):
            if cell.record not in known:
                raise ValueError(f"section {self.stem}: cell '{cell.text}' names no record: {cell.record}")


class Chapter(NamedTuple):
    """Sections of one kind, under a heading."""

    heading: str
    sections: Sequence[Section]
