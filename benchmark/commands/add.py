"""`adaptrec add`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_level, add_results, level_of, numbers, reading
from benchmark.commands.verify import LEVELS

SUMMARY = "Add records, or a bundle that another person submitted, to the index of a store."


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
    add_level(parser, LEVELS[1:], "every record")


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.results.index import INDEX
    from benchmark.results.measures import several
    from benchmark.verify.add import Addition, add

    wanted = Addition(
        options.sources, options.by, level_of(options), tuple(options.data), reading(options),
        tuple(options.replaces), options.because,
    )  # fmt: skip
    done = add(options.results, wanted)
    known = f"; {done.known} were there already" if done.known else ""
    numbered = f" ({done.entries[0].entry} to {done.entries[-1].entry})" if done.entries else ""
    print(f"{options.results / INDEX}: {several(len(done.entries), 'entry')} added{numbered}{known}")
    for entry in done.entries:
        print(f"  {entry.entry}  {entry.record}" + (f", replaces {entry.replaces}" if entry.replaces else ""))
    print(f"head {done.head}")
    return 0
