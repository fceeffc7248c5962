"""`adaptrec report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_filters, add_metrics, add_results, metrics

SUMMARY = "Write tables and plots from the records, and a page that holds them all."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_results(parser)
    parser.add_argument(
        "--source", default="ours", metavar="ours|paper|both",
        help="ours: the records; paper: the published figures alone, no records needed; both: side by side",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=argparse.SUPPRESS,
        help="folder to write (default: reports; reports/paper for --source paper)",
    )  # fmt: skip
    add_filters(parser)
    add_metrics(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.report.build import build_report
    from benchmark.results.store import warn

    wanted = {name: getattr(options, f"{name}s") for name in ("dataset", "llm", "method", "protocol")}
    only = {name: values for name, values in wanted.items() if values}
    out = getattr(options, "out", Path("reports/paper" if options.source == "paper" else "reports"))
    files = build_report(options.results, out, only or None, options.source, warn, metrics(options))
    print(f"{len(files)} files in {out}")
    print(out / "index.html")
    return 0
