"""`adaptrec results`."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.commands.options import Parser, add_filters, add_metrics, add_results, metrics
from methods.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

SUMMARY = "Write every stored and published figure as one long table."
FORMATS = ("csv", "parquet", "md")


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_results(parser)
    parser.add_argument(
        "--source", default="ours", metavar="ours|paper|both",
        help="ours: the records; paper: the published figures, no records needed; both",
    )  # fmt: skip
    parser.add_argument("--format", default="csv", choices=FORMATS, metavar="|".join(FORMATS))
    parser.add_argument(
        "--out", type=Path, default=argparse.SUPPRESS, help="file to write (default: standard output)"
    )
    add_filters(parser)
    add_metrics(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    out: Path | None = getattr(options, "out", None)
    if out is None and options.format == "parquet" and sys.stdout.isatty():
        raise UserError("--format parquet is binary and standard output is a terminal; give --out FILE.")
    from benchmark.files import write_atomically
    from benchmark.results.figures import load
    from benchmark.results.store import NARROWED_BY

    only = {name: getattr(options, f"{name}s") or () for name in NARROWED_BY}
    table = load(options.results, options.source, metrics(options), only)
    content = _parquet(table) if options.format == "parquet" else _text(table, options.format).encode()
    if out is not None:
        write_atomically(out, content)
        print(f"{len(table)} figures in {out}")
    elif options.format == "parquet":
        sys.stdout.buffer.write(content)
    else:
        print(content.decode(), end="")
    return 0


def _parquet(table: DataFrame) -> bytes:
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()


def _text(table: DataFrame, form: str) -> str:
    """CSV or Markdown; whole numbers have no decimal point, null is nothing."""
    from benchmark.report.rendering import markdown, render
    from benchmark.report.section import Block, Cell, Section
    from benchmark.results.figures import COLUMNS

    cells = table.astype(object).where(table.notna(), None)
    lines = [dict(zip(COLUMNS, row, strict=True)) for row in cells.itertuples(index=False)]
    for line in lines:
        line["value"] = int(line["value"]) if line["value"].is_integer() else line["value"]
    if form == "csv":
        return render(Section("", "", "", [], lines=lines), "csv")
    rows = [[Cell("" if value is None else str(value)) for value in line.values()] for line in lines]
    return markdown("", [Block("Figures", list(COLUMNS), rows)], ())
