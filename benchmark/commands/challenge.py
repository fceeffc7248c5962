"""`adaptrec challenge`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_seconds
from benchmark.process.exit_status import ExitCode

SUMMARY = "Run the planted configurations of a bundle again, on data whose seed was drawn after it."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a file that `adaptrec bundle` wrote")
    parser.add_argument(
        "--beacon", required=True, metavar="HEX",
        help="random bits that were drawn in public after the digest of the bundle was published",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("challenge"), metavar="DIR",
        help="folder for the new data's recipe and records (default: %(default)s)",
    )  # fmt: skip
    add_seconds(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.verify.challenge import challenge

    well = True
    for line, agrees in challenge(options.bundle, options.beacon, options.out, options.seconds):
        print(line, flush=True)
        well = well and agrees
    print(f"level L5 {'reached' if well else 'not reached'}")
    return ExitCode.OK if well else ExitCode.FAILED
