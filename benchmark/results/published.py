"""What the paper prints (arXiv 2310.01612): `results/paper/*.csv`, and how its tables are laid out.

Nothing here was measured by this project. Each figure is a row of the long table
(`benchmark.results.figures`), here a dictionary, so that whoever needs the counts alone does not load pandas.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.config import first_fault
from benchmark.process.startup import packaged_data
from methods.errors import UserError, unknown

Source = Literal["ours", "paper", "both"]
SOURCES: tuple[Source, ...] = get_args(Source)
"""What a report is made from: our records, the paper, or both."""
COUNTS = ("users", "items", "interactions")
LAYOUT = "tables.toml"
Model = TypeVar("Model", bound=BaseModel)
Row = dict[str, Any]
"""A row of the long table: those of its columns that are not null."""


class _TomlTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableLayout(_TomlTable):
    """One kind of table."""

    title: str
    methods: tuple[str, ...]
    """In the paper's order."""
    numbers: dict[str, str]
    """Language model -> the paper's number of the table; "" where one table holds all of them."""


class Column(_TomlTable):
    """A column of Tables S1 to S3."""

    method: str
    hyperparameter: str
    symbol: str


class Claim(_TomlTable):
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


class Layout(_TomlTable):
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
    names: dict[str, dict[str, str]]
    """Method -> hyper-parameter as the paper names it -> as the method here does."""
    best_of: dict[str, str]
    """Method without best values of its own -> the method whose values it takes."""
    tables: dict[str, TableLayout]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Published:
    """Everything that the paper prints."""

    layout: Layout
    rows: tuple[Row, ...]
    """Every figure, in the order of the files."""

    def counts(self) -> dict[str, tuple[int, ...]]:
        """Dataset -> users, items and interactions of Table 1."""
        known = {
            (row["dataset"], row["measure"]): row["value"] for row in self.rows if row["kind"] == "count"
        }
        return {name: tuple(int(known[name, count]) for count in COUNTS) for name in self.layout.datasets}

    def best(self, method: str) -> dict[tuple[str, str], dict[str, float]]:
        """(language model, dataset) -> the best values of Tables S1 to S3, under the names that `method` has
        for them."""
        names = self.layout.names.get(method, {})
        best: dict[tuple[str, str], dict[str, float]] = {}
        for row in self.rows:
            if row["kind"] == "tuned" and row["method"] == method:
                measure, value = str(row["measure"]), row["value"]
                values = best.setdefault((row["llm"], row["dataset"]), {})
                values[names.get(measure, measure)] = int(value) if value.is_integer() else value
        return best


@dataclass(frozen=True)
class _File:
    """Columns of a file: names that say what a figure is of, and the numbers."""

    kind: str
    """That of its figures in the long table."""
    names: tuple[str, ...]
    values: tuple[str, ...] = ("value",)
    table: str = ""
    """Its table, where no column says so."""

    def numbers(self, layout: Layout) -> list[str]:
        """The columns of `values`; one of them has the proposed method in its name."""
        return [name.format(subject=layout.subject) for name in self.values]


FILES = {
    "datasets.csv": _File(
        "count", ("dataset",), (*COUNTS, "interactions_per_user", "interactions_per_item"), "table1"
    ),
    "quality.csv": _File("quality", ("table", "llm", "dataset", "metric", "method")),
    "improvement.csv": _File(
        "improvement", ("llm", "metric", "baseline"), ("{subject}_improvement_percent",), "table5"
    ),
    "efficiency.csv": _File("cost", ("table", "llm", "dataset", "measure", "method")),
    "hyperparameters.csv": _File("tuned", ("llm", "dataset", "method", "hyperparameter")),
}
SPLITS = {"quality": "test", "improvement": "test", "gpu_memory_gb": "train"}
"""Kind or measure -> its split in the long table."""


def folder() -> Path:
    """Where the published figures lie, in a checkout or in the installed package."""
    root = packaged_data("paper", "results/paper")
    if not (root / LAYOUT).is_file():
        raise UserError(f"the published figures are missing: there is no {root / LAYOUT}. Reinstall.")
    return root


@cache
def published(where: Path | None = None) -> Published:
    """Read and check the published figures, by default from `folder()`.

    Raises `UserError` with file and line for a missing or unknown column, a missing value, a number that is
    none, a name that `tables.toml` does not have, and a figure that stands twice.
    """
    root = where or folder()
    layout = read_toml(root / LAYOUT, Layout)
    rows: list[Row] = []
    for name, file in FILES.items():
        lines: dict[tuple[str | None, ...], int] = {}
        for line, row in _rows(root / name, (*file.names, *file.numbers(layout))):
            _check_names(row, layout, f"{root / name}, line {line}")
            for figure in _figures(row, file, layout, f"{root / name}, line {line}"):
                key = tuple(figure.get(part) for part in ("record", "llm", "dataset", "method", "measure"))
                if key in lines:
                    raise UserError(f"{root / name}, line {line}: stands on line {lines[key]} too; keep one.")
                lines[key] = line
                rows.append(figure)
    counted = {row["dataset"] for row in rows if row["kind"] == "count"}
    if missing := [name for name in layout.datasets if name not in counted]:
        raise UserError(f"{root / 'datasets.csv'}: no line for the dataset '{missing[0]}' of {LAYOUT}.")
    return Published(layout, tuple(rows))


def best_values(method: str) -> dict[tuple[str, str], dict[str, float]]:
    """(language model, dataset) -> what `--tune paper` sets for a method; empty where the paper has none."""
    paper = published()
    return paper.best(paper.layout.best_of.get(method, method))


def has_best_values(llm: str, dataset: str) -> bool:
    """Whether `--tune paper` has values for a language model and dataset, by their names here."""
    layout = published().layout
    return llm in layout.llms and dataset in {*layout.datasets, "scientific"}  # the paper's `sci`


def dataset_of(fingerprint: Mapping[str, Any]) -> str | None:
    """The paper's dataset with exactly these `users`, `items` and `interactions` (Table 1), or None."""
    counts = tuple(fingerprint.get(name) for name in COUNTS)
    return next((name for name, known in published().counts().items() if known == counts), None)


def read_toml(path: Path, cls: type[Model]) -> Model:
    """A TOML file of the published figures as `cls`. Raises `UserError` where it cannot be read as that."""
    try:
        return cls.model_validate(tomllib.loads(_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        raise UserError(f"{path}: {first_fault(error)}.") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. It belongs to the published figures.") from error


def _rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV file with exactly these columns, each with a value."""
    reader = csv.DictReader(_text(path).splitlines(), strict=True)
    header, required = list(reader.fieldnames or ()), list(columns)
    for name in header:
        if name not in required:
            raise unknown(f"column in {path}, line 1:", name, required)
    for name in required:
        if header.count(name) != 1:
            raise UserError(
                f"{path}, line 1: needs the column '{name}' once; columns: {', '.join(required)}."
            )
    try:
        for row in reader:
            line = reader.line_num
            if None in row:
                raise UserError(f"{path}, line {line}: more fields than the {len(required)} columns.")
            for name in required:
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


def _figures(row: Mapping[str, str], file: _File, layout: Layout, where: str) -> Iterator[Row]:
    """One figure a number of the row."""
    table = file.table or row.get("table") or f"table{layout.tables['best'].numbers[row['llm']]}"
    named = row.get("measure") or row.get("metric") or row.get("hyperparameter")
    method = row.get("method") or row.get("baseline")
    for column in file.numbers(layout):
        measure = named or column
        figure = {
            "source": "paper",
            "dataset": row.get("dataset"),
            "llm": row.get("llm"),
            "method": method,
            "configuration": method,
            "split": SPLITS.get(file.kind) or SPLITS.get(measure),
            "kind": file.kind,
            "measure": measure,
            "value": _number(row[column], column, where),
            "record": f"paper:{table}",
        }
        yield {name: value for name, value in figure.items() if value is not None}


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: '{text}' for '{column}' is not a number from 0 up.")
    return value
