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
    for name, summary in _listing(options.what).items():
        print(f"{name:18} {summary}")
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
    from benchmark.data.recipe import available as recipes

    return recipes()
