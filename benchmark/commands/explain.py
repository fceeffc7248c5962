"""`adaptrec explain`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_metrics, metrics

SUMMARY = "Say why two figures differ: settings, and each metric with its interval."
SIDE = (
    "a record's path, the beginning of <dataset>/<llm>/<method>/<hash>[-s<seed>] below the results (without "
    "a seed: all of them), or a published figure, paper:<llm>/<dataset>/<method>"
)


def fill(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", help=SIDE)
    parser.add_argument("b", metavar="B", help="the same")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")
    add_metrics(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is said to this file too")


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from benchmark.explain.explain import explain, show
    from benchmark.explain.sources import find
    from benchmark.files import write_json

    found = explain(*(find(side, options.results, metrics(options)) for side in (options.a, options.b)))
    if options.json:
        write_json(options.json, found)
    print(show(found))
    return 0
