"""`adaptrec verify`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from benchmark.commands.options import Parser, add_level, add_seconds, level_of, reading
from benchmark.escape import visible_line
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
    add_level(parser, LEVELS, "a bundle")
    parser.add_argument(
        "--results", type=Path, metavar="STORE",
        help="for L3 and L4: a store whose records of the project say which data have a name (default: "
        "results, where it is one)",
    )  # fmt: skip
    parser.add_argument(
        "--head", type=_checksum, metavar="DIGEST",
        help="of a store: the head that `adaptrec add` printed; the index must still have that entry",
    )  # fmt: skip
    add_seconds(parser)


def _checksum(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no SHA-256 of 64 hexadecimal digits")
    return text


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    if options.bundle.is_dir():
        return _store(options)
    from benchmark.verify.guard import Request, verify_guarded

    if options.head:
        raise UserError("--head is of a store, and a bundle has none; leave it out.")
    level = level_of(options)
    store = options.results or Path("results")
    request = Request(options.bundle, level, options.seconds, tuple(options.data), reading(options), store)
    verdict = verify_guarded(request)
    for line in verdict.lines():
        print(line)
    return ExitCode.OK if verdict.reaches(level) else ExitCode.FAILED


def _store(options: argparse.Namespace) -> int:
    from benchmark.verify.indexed import Store, check_store

    if options.level or options.data or options.results:
        raise UserError(
            f"--level, --data and --results are of bundles, and {options.bundle} is a folder; leave them out."
        )
    found = check_store(options.bundle, options.head or "", options.seconds)
    for finding in found:
        print(finding.line)
    if any(finding.fault for finding in found):
        return ExitCode.FAILED
    store = Store(options.bundle)
    index, local = store.index, store.local
    replaced = f"of which {len(index.corrections)} were replaced"
    print(f"{len(index.entries)} entries, {replaced}; {len(local)} local records")
    for path in local:
        print(f"  local: {visible_line(str(path))}")
    for name in store.waiting:
        print(f"  not added yet: {visible_line(str(options.bundle / name))}")
    print(f"head {index.last}")
    return ExitCode.OK
