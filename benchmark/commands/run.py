"""`adaptrec run`."""

from __future__ import annotations

import argparse
import sys

from benchmark.commands.options import Parser, add_common, add_reading, overrides, protocols, reading
from benchmark.config import PROTOCOLS

SUMMARY = "Run one cell and print the path of its record."


def fill(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("--dataset", required=True, help="a recipe's name or a folder")
    add_reading(parser)
    parser.add_argument("--llm", default="minilm", help="a short name, a hub id or a folder")
    parser.add_argument("--method", required=True, help="see `adaptrec list methods`")
    parser.add_argument(
        "--protocol", default="paper", choices=list(PROTOCOLS), metavar="PROTOCOL", help=protocols()
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every random number")
    add_common(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last epoch (what happens anyway)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="discard a finished record or a checkpoint and run anew"
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from benchmark.run.run import run
    from benchmark.run.spec import RunSpec

    cell = RunSpec(
        options.dataset, options.llm, options.method, options.protocol, options.seed, overrides(options),
        reading(options),
    )  # fmt: skip
    path, record = run(cell, options.results, options.fresh)
    if record.status != "ok":
        print(f"adaptrec: {record.status}: {record.error}", file=sys.stderr)
    print(path)
    return 0 if record.status == "ok" else 1
