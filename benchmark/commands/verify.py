"""`adaptrec verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_data_dir, add_reading, add_seconds, no_reading, reading
from benchmark.process.exit_status import ExitCode
from methods.errors import UserError

LEVELS = ("L1", "L2", "L3", "L4")
SUMMARY = "Check a bundle of records, or a store with an index; nothing in it is run."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE|STORE",
        help="a file that `adaptrec bundle` wrote, or a folder of results with an index",
    )  # fmt: skip
    parser.add_argument(
        "--level", choices=LEVELS, metavar="|".join(LEVELS),
        help="the level that a bundle must reach, see docs/verify.md (default: L2, with --data L3)",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="DATASET",
        help="for L3 and L4: the data of its runs, each a recipe's name or a folder",
    )  # fmt: skip
    add_reading(parser)
    add_data_dir(parser)
    add_seconds(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    if options.bundle.is_dir():
        return _store(options)
    from benchmark.verify.guard import Request, verify_guarded

    level = level_of(options)
    request = Request(options.bundle, level, options.seconds, tuple(options.data), reading(options))
    verdict = verify_guarded(request)
    for line in verdict.lines():
        print(line)
    return ExitCode.OK if verdict.reaches(level) else ExitCode.FAILED


def level_of(options: argparse.Namespace) -> str:
    """The level that is asked for. Raises `UserError` where it does not fit to the data that are given."""
    level: str = options.level or ("L3" if options.data else "L2")
    if (level in ("L3", "L4")) != bool(options.data):
        raise UserError(
            "levels L3 and L4 need the data of the runs, and L1 and L2 do not; give --data DATASET with "
            "--level L3 or L4, or neither."
        )
    if not options.data:
        no_reading(options, "--data")
    return level


def _store(options: argparse.Namespace) -> int:
    from benchmark.verify.indexed import Store, check_store

    if options.level or options.data:
        raise UserError(
            f"--level and --data are of bundles, and {options.bundle} is a folder; leave them out."
        )
    found = check_store(options.bundle)
    for finding in found:
        print(finding.line)
    if any(finding.fault for finding in found):
        return ExitCode.FAILED
    store = Store(options.bundle)
    index, local = store.index, store.local
    replaced = f"of which {len(index.corrections)} were replaced"
    print(f"{len(index.entries)} entries, {replaced}; {len(local)} local records")
    for path in local:
        print(f"  local: {path}")
    return ExitCode.OK
