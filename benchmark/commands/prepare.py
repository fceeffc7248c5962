"""`adaptrec prepare`."""

from __future__ import annotations

import argparse

from benchmark.commands.options import Parser, add_data_dir, add_reading, add_set, names, reading
from benchmark.config import PROTOCOLS

SUMMARY = "Prepare a dataset, and the hidden states of a language model."


def fill(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("--dataset", required=True, help="a recipe's name or a folder")
    add_reading(parser)
    parser.add_argument("--llm", help="also compute the hidden states of this language model")
    parser.add_argument(
        "--methods", type=names, help="the methods whose layers to compute; all when left out"
    )
    parser.add_argument(
        "--protocols", "--protocol", type=names, default=list(PROTOCOLS), help="under which they will run"
    )
    add_data_dir(parser)
    add_set(parser)


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from benchmark.run.inputs import prepare_inputs

    lines = prepare_inputs(
        options.dataset, options.llm, options.methods, options.protocols, tuple(options.set), reading(options)
    )
    for line in lines:
        print(line)
    return 0
