"""`adaptrec bundle`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_data_dir, add_reading, no_reading, reading

SUMMARY = "Put records into one file that others can verify."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "records", nargs="+", type=Path, metavar="RECORD", help="records of finished runs: their JSON files"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="the bundle, NAME.adaptrec.zip"
    )
    parser.add_argument(
        "--with-embeddings", nargs="+", metavar="DATASET",
        help="add embeddings of items and users, of runs with --keep-model; the data of the runs, each "
        "a recipe's name or a folder",
    )  # fmt: skip
    add_reading(parser)
    add_data_dir(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.results.measures import several
    from benchmark.verify.bundle import make_bundle
    from benchmark.verify.truth import prepared_data

    names = options.with_embeddings
    if names is None:
        no_reading(options, "--with-embeddings")
    data = None if names is None else prepared_data(names, reading(options))
    verdict = make_bundle(options.records, options.out, data)
    print(f"{options.out}: {several(verdict.runs, 'run')}, {verdict.size:,} bytes")
    print(f"SHA-256 {verdict.digest}")
    return 0
