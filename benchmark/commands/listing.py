"""`adaptrec list`."""

from __future__ import annotations

import argparse

from benchmark.commands.options import Parser

SUMMARY = "List methods, language models or datasets."


def fill(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=["methods", "llms", "datasets"], metavar="methods|llms|datasets")


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    lines = _listing(options.what)
    width = max(18, *map(len, lines))
    for name, summary in lines.items():
        print(f"{name:{width}} {summary}")
    return 0


def _listing(what: str) -> dict[str, str]:
    if what == "methods":
        from methods.registry import entries

        return {
            key: entry.summary + (f" [{entry.distribution} {entry.version}]" if entry.external else "")
            for key, entry in entries().items()
        }
    if what == "llms":
        from benchmark.llm.catalogue import available

        return available()
    from benchmark.data.places import cache_folder
    from benchmark.data.recipe import available as datasets

    found = datasets(cache_folder())
    return {name: f"{one.edition:13} {one.state:9} {one.summary}".rstrip() for name, one in found.items()}
