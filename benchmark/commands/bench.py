"""`adaptrec bench`."""

from __future__ import annotations

import argparse

from benchmark.commands.options import Parser, add_common, names, numbers, overrides, protocols

SUMMARY = "Run a grid of cells, each in a fresh process, and print the tables."


def fill(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--datasets", "--dataset", type=names, required=True, help="names or folders, by commas"
    )
    parser.add_argument(
        "--llms", "--llm", type=names, default=["minilm"], help="names, hub ids or folders, by commas"
    )
    parser.add_argument("--methods", "--method", type=names, help="by commas; every method when left out")
    parser.add_argument(
        "--protocols", "--protocol", type=names, default=["paper"], help=f"by commas: {protocols()}"
    )
    parser.add_argument("--seeds", "--seed", type=numbers, default=[0], help="by commas")
    parser.add_argument("--processes", type=int, default=1, help="processes (GPUs) of each run")
    parser.add_argument(
        "--jobs", type=int, default=1, help="cells at a time, which share the processor: their times mislead"
    )
    add_common(parser)
    parser.add_argument("--fresh", action="store_true", help="run finished cells anew")


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from benchmark.grid.local import bench
    from benchmark.grid.plan import expand

    cells = expand(
        options.datasets, options.llms, options.methods, options.protocols, options.seeds, overrides(options)
    )
    return bench(cells, options.results, options.processes, options.fresh, options.jobs)
