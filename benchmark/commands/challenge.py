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
    parser.add_argument(
        "--llm", action="append", default=[], metavar="NAME",
        help="a language model of the bundle that is no short name and may be used all the same, "
        "such as a hub id, as the bundle names it; may be given again",
    )  # fmt: skip
    add_seconds(parser, "stop checking the bundle, and training, after so long in all", 6 * 60 * 60)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.verify.challenge import challenge

    well = True
    given = options.bundle, options.beacon, options.out, options.seconds, options.llm
    for line, agrees in challenge(*given):
        print(line, flush=True)
        well = well and agrees
    return ExitCode.OK if well else ExitCode.FAILED
