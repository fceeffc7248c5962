"""`adaptrec report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_metrics, metrics, names

SUMMARY = "Write tables and plots from the records, and a page that holds them all."


def fill(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")
    parser.add_argument(
        "--source", default="ours", metavar="ours|paper|both",
        help="ours: the records; paper: the published figures alone, no records needed; both: side by side",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=argparse.SUPPRESS,
        help="folder to write (default: reports; reports/paper for --source paper)",
    )  # fmt: skip
    for name in ("datasets", "llms", "methods", "protocols"):
        parser.add_argument(f"--{name}", type=names, help="only these, by commas")
    add_metrics(parser)


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from benchmark.report.build import build_report
    from benchmark.results.store import warn

    wanted = {name: getattr(options, f"{name}s") for name in ("dataset", "llm", "method", "protocol")}
    only = {name: values for name, values in wanted.items() if values}
    out = getattr(options, "out", Path("reports/paper" if options.source == "paper" else "reports"))
    files = build_report(options.results, out, only or None, options.source, warn, metrics(options))
    print(f"{len(files)} files in {out}")
    print(out / "index.html")
    return 0
