"""`adaptrec verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser
from benchmark.process.exit_status import ExitCode

SUMMARY = "Check a bundle of records; nothing in it is run."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a file that `adaptrec bundle` wrote")
    parser.add_argument(
        "--level", default="L2", choices=("L1", "L2"), metavar="LEVEL",
        help="the level that it must reach; docs/verify.md says what each promises (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=int, default=600, metavar="N", help="give up after so long (default: %(default)s)"
    )


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.verify.guard import verify_guarded

    verdict = verify_guarded(options.bundle, options.level, options.seconds)
    for line in verdict.lines():
        print(line)
    return ExitCode.OK if verdict.reaches(options.level) else ExitCode.FAILED
