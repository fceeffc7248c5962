"""`adaptrec bundle`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser

SUMMARY = "Put records into one file that others can verify."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "records", nargs="+", type=Path, metavar="RECORD", help="records of finished runs: their JSON files"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="the bundle, NAME.adaptrec.zip"
    )


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.verify.bundle import make_bundle

    verdict = make_bundle(options.records, options.out)
    print(f"{options.out}: {verdict.runs} {'run' if verdict.runs == 1 else 'runs'}, {verdict.size:,} bytes")
    print(f"SHA-256 {verdict.digest}")
    return 0
