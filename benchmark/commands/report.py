"""`adaptrec report`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.commands.options import (
    Parser,
    add_filters,
    add_metrics,
    add_results,
    add_source,
    metrics,
)
from benchmark.grid.defaults import default_report
from benchmark.results.published import Source

SUMMARY = "Write tables and plots from the records, and a page that holds them all."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_results(parser)
    add_source(parser)
    parser.add_argument(
        "--out",
        type=Path,
        help="folder to write; reports, or reports/paper for --source paper, when left out",
    )
    add_filters(parser)
    add_metrics(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    filters = {name: getattr(options, f"{name}s") for name in ("dataset", "llm", "method", "protocol")}
    only = {name: values for name, values in filters.items() if values}
    out = options.out or default_report(options.source)
    write_report(options.results, out, options.source, metrics(options), only)
    return 0


def write_report(
    results: Path,
    out: Path,
    source: Source,
    columns: Sequence[str],
    only: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the report of `results` into `out` and print where it is."""
    from benchmark.report.build import build_report
    from benchmark.results.store import warn

    files = build_report(results, out, only or None, source, warn, columns)
    print(f"{len(files)} files in {out}")
    print(out / "index.html")
