"""`adaptrec pin`."""

from __future__ import annotations

import argparse

from benchmark.commands.options import Parser

SUMMARY = "Look up the commit of a language model's short name once, and keep it."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "llm", metavar="NAME", help="a short name; `adaptrec list llms` says which are unpinned"
    )
    parser.add_argument(
        "--revision", default="", metavar="REVISION",
        help="take this commit, or what this branch or tag leads to now, in place of the newest commit or of "
        "an earlier pin",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.llm.catalogue import pin
    from benchmark.llm.pins import pins_file

    llm = pin(options.llm, options.revision)
    print(f"{llm.name}: commit {llm.revision}, SHA-256 of the weights {llm.digest}, in {pins_file()}")
    return 0
