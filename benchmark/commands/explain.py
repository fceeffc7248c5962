"""`adaptrec explain`."""

from __future__ import annotations

import argparse

from benchmark.commands.options import Parser, add_metrics, add_results, metrics, output_file

SUMMARY = "Explain why two figures differ: settings, and each metric with its interval."
SOURCE = (
    "a record's path, the beginning of <dataset>/<llm>/<method>/<hash>[-s<seed>] below the results (without "
    "a seed: all of them), or a published figure, paper:<llm>/<dataset>/<method>"
)


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", help=SOURCE)
    parser.add_argument("b", metavar="B", help="the same")
    add_results(parser)
    add_metrics(parser)
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write the result to this file")


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.explain.explain import explain, show
    from benchmark.explain.sources import find
    from benchmark.files import write_json

    result = explain(
        *(find(name, options.results, metrics(options, lists=False)) for name in (options.a, options.b))
    )
    if options.json:
        write_json(options.json, result)
    print(show(result))
    return 0
