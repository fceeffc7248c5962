"""What the paper prints (arXiv 2310.01612): `results/paper/*.csv`, and how its tables are laid out.

Nothing here was measured by this project. `Figure` is also what run records are turned into
(`benchmark.report.measured`), so that a table is one function of figures, wherever they come from.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.process.import_path import packaged_data
from methods.errors import UserError, unknown

Source = Literal["paper", "ours"]
COUNTS = ("users", "items", "interactions")
LAYOUT = "tables.toml"
IMPROVEMENT = "improvement in "
"""Before a metric: the measure of Table 5, per cent."""


@dataclass(frozen=True)
class Figure:
    """One number of a table: published, or the mean over the seeds of one configuration."""

    measure: str
    """`recall@10`, `masked recall@10`, `epoch_seconds`, `gpu_memory_gb`, a count or a hyper-parameter, ..."""
    value: float
    dataset: str = ""
    """The paper's name, or the record's own where the paper does not have it; empty: over all datasets."""
    llm: str | None = None
    method: str = ""
    spread: float | None = None
    """Half-width of the 95 % t interval over seeds; None where one number is known."""
    n_seeds: int = 1
    source: Source = "paper"
    record: str = ""
    """`paper:<table>`, or the record's name below the folder of the results."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(_Part):
    """One kind of table."""

    title: str
    methods: tuple[str, ...]
    """In the paper's order."""
    numbers: dict[str, str]
    """Language model -> the paper's number of the table; "" where one table holds all of them."""


class Column(_Part):
    """A column of Tables S1 to S3."""

    method: str
    hyperparameter: str
    symbol: str


class Claim(_Part):
    """A figure of the paper's text that follows from its tables, or should."""

    kind: str
    """Definition: see `benchmark.report.derived.KINDS`."""
    llm: str
    measure: str
    baseline: str = ""
    datasets: tuple[str, ...] = ()
    """Empty: all."""
    printed: str
    """As printed, so that its digits are known."""
    where: str


class Layout(_Part):
    """`tables.toml`: names, roles and order."""

    source: str
    subject: str
    """The method that the paper proposes."""
    stand_in: str
    """Language model that stands beside one which the paper does not have."""
    confidence: float
    """Of the tests of Table 5."""
    datasets: dict[str, str]
    llms: dict[str, str]
    methods: dict[str, str]
    tables: dict[str, Table]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Published:
    """Everything that the paper prints."""

    layout: Layout
    figures: tuple[Figure, ...]

    def counts(self) -> dict[str, tuple[int, ...]]:
        """Dataset -> users, items and interactions of Table 1."""
        found = {(one.dataset, one.measure): int(one.value) for one in self.figures if one.measure in COUNTS}
        return {name: tuple(found[name, measure] for measure in COUNTS) for name in self.layout.datasets}


@dataclass(frozen=True)
class _File:
    """Columns of a file: names that say what a figure is of, and the numbers."""

    names: tuple[str, ...]
    values: tuple[str, ...]
    table: str = ""
    """Its table, where no column says so."""

    def numbers(self, layout: Layout) -> list[str]:
        """The columns of `values`; one of them has the proposed method in its name."""
        return [name.format(subject=layout.subject) for name in self.values]


FILES = {
    "datasets.csv": _File(
        ("dataset",), (*COUNTS, "interactions_per_user", "interactions_per_item"), "table1"
    ),
    "quality.csv": _File(("table", "llm", "dataset", "metric", "method"), ("value",)),
    "improvement.csv": _File(("llm", "metric", "baseline"), ("{subject}_improvement_percent",), "table5"),
    "efficiency.csv": _File(("table", "llm", "dataset", "measure", "method"), ("value",)),
    "hyperparameters.csv": _File(("llm", "dataset", "method", "hyperparameter"), ("value",)),
}


def folder() -> Path:
    """Where the published figures lie, in a checkout or in the installed package."""
    root = packaged_data("paper", "results/paper")
    if not (root / LAYOUT).is_file():
        raise UserError(f"the published figures are missing: there is no {root / LAYOUT}. Reinstall.")
    return root


@cache
def published(where: Path | None = None) -> Published:
    """Read and check the published figures, from `folder()` unless told otherwise.

    Raises `UserError` with file and line for a missing or unknown column, a missing value, a number that is
    none, a name that `tables.toml` does not have, and a figure that stands twice.
    """
    root = where or folder()
    layout = _layout(root / LAYOUT)
    figures: list[Figure] = []
    for name, file in FILES.items():
        found: dict[tuple[str | None, ...], int] = {}
        for line, row in _rows(root / name, (*file.names, *file.numbers(layout))):
            _check_names(row, layout, f"{root / name}, line {line}")
            for figure in _figures(row, file, layout, f"{root / name}, line {line}"):
                key = (figure.record, figure.llm, figure.dataset, figure.method, figure.measure)
                if key in found:
                    raise UserError(f"{root / name}, line {line}: stands on line {found[key]} too; keep one.")
                found[key] = line
                figures.append(figure)
    there = {figure.dataset for figure in figures if figure.measure in COUNTS}
    if missing := [name for name in layout.datasets if name not in there]:
        raise UserError(f"{root / 'datasets.csv'}: no line for the dataset '{missing[0]}' of {LAYOUT}.")
    return Published(layout, tuple(figures))


def dataset_of(fingerprint: Mapping[str, Any]) -> str | None:
    """The paper's dataset with exactly these `users`, `items` and `interactions` (Table 1), or None."""
    counts = tuple(fingerprint.get(name) for name in COUNTS)
    return next((name for name, known in published().counts().items() if known == counts), None)


def _layout(path: Path) -> Layout:
    try:
        return Layout.model_validate(tomllib.loads(_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {place}: {first['msg']}.") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. It belongs to the published figures.") from error


def _rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV file with exactly these columns, each with a value."""
    reader = csv.DictReader(_text(path).splitlines(), strict=True)
    there, wanted = list(reader.fieldnames or ()), list(columns)
    for name in there:
        if name not in wanted:
            raise unknown(f"column in {path}, line 1:", name, wanted)
    for name in wanted:
        if there.count(name) != 1:
            raise UserError(f"{path}, line 1: needs the column '{name}' once; columns: {', '.join(wanted)}.")
    try:
        for row in reader:
            line = reader.line_num
            if None in row:
                raise UserError(f"{path}, line {line}: more fields than the {len(wanted)} columns.")
            for name in wanted:
                if not (row[name] or "").strip():
                    raise UserError(f"{path}, line {line}: no value for '{name}'.")
            yield line, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}.") from error


def _check_names(row: Mapping[str, str], layout: Layout, where: str) -> None:
    allowed = {
        "dataset": layout.datasets,
        "llm": layout.llms,
        "method": layout.methods,
        "baseline": layout.methods,
    }
    for column, names in allowed.items():
        if column in row and row[column] not in names:
            raise unknown(f"{column} in {where}:", row[column], names)


def _figures(row: Mapping[str, str], file: _File, layout: Layout, where: str) -> Iterator[Figure]:
    """One figure a number of the row."""
    table = file.table or row.get("table") or f"table{layout.tables['best'].numbers[row['llm']]}"
    named = row.get("measure") or row.get("metric") or row.get("hyperparameter")
    for column in file.numbers(layout):
        yield Figure(
            measure=(IMPROVEMENT if "baseline" in row else "") + (named or column),
            value=_number(row[column], column, where),
            dataset=row.get("dataset", ""),
            llm=row.get("llm"),
            method=row.get("method") or row.get("baseline") or "",
            record=f"paper:{table}",
        )


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: '{text}' for '{column}' is not a number from 0 up.")
    return value
