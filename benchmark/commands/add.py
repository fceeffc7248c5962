"""`adaptrec add`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_data_dir, add_reading, add_results, numbers, reading
from benchmark.commands.verify import LEVELS

SUMMARY = "Add records, or a bundle of somebody else's, to the index of a store."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="RECORD|FOLDER|BUNDLE",
        help="records; folders, of which those of finished runs that are not in the index yet; or bundles",
    )  # fmt: skip
    add_results(parser)
    parser.add_argument("--by", default="", metavar="NAME", help="of a bundle: who submitted it")
    parser.add_argument(
        "--replaces", type=numbers, default=[], metavar="ENTRY,...",
        help="entries that the new ones correct; a record at the path of an entry replaces that one anyway",
    )  # fmt: skip
    parser.add_argument("--because", default="", metavar="TEXT", help="why entries are replaced")
    parser.add_argument(
        "--level", choices=LEVELS[1:], metavar="|".join(LEVELS[1:]),
        help="the level that all must reach, see docs/verify.md (default: L2, with --data L3)",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="DATASET",
        help="for L3 and L4: the data of the runs, each a recipe's name or a folder",
    )  # fmt: skip
    add_reading(parser)
    add_data_dir(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.commands.verify import level_of
    from benchmark.results.index import INDEX
    from benchmark.verify.add import Addition, add

    wanted = Addition(
        options.sources, options.by, level_of(options), tuple(options.data), reading(options),
        tuple(options.replaces), options.because,
    )  # fmt: skip
    done = add(options.results, wanted)
    count, known = len(done.entries), f"; {done.known} were there already" if done.known else ""
    what = f"{count} {'entry' if count == 1 else 'entries'}"
    numbered = f" ({done.entries[0].entry} to {done.entries[-1].entry})" if count else ""
    print(f"{options.results / INDEX}: {what} added{numbered}{known}")
    for entry in done.entries:
        print(f"  {entry.entry}  {entry.record}" + (f", replaces {entry.replaces}" if entry.replaces else ""))
    return 0
