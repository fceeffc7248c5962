"""`adaptrec prepare`."""

from __future__ import annotations

import argparse

from benchmark.commands.options import Parser, add_data_dir, add_dataset, add_set, name, names, reading
from benchmark.config import PROTOCOLS

SUMMARY = "Prepare a dataset, and the hidden states of a language model."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_dataset(parser)
    parser.add_argument("--llm", type=name, help="also compute the hidden states of this language model")
    parser.add_argument(
        "--methods", type=names, help="the methods whose layers to compute; as for bench when left out"
    )
    parser.add_argument(
        "--protocols", "--protocol", type=names, default=list(PROTOCOLS), help="under which they will run"
    )
    add_data_dir(parser)
    add_set(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.run.build import prepare_inputs
    from benchmark.run.spec import look_again

    look_again()  # the command is asked to look at the files
    lines = prepare_inputs(
        options.dataset, options.llm, options.methods, options.protocols, tuple(options.set), reading(options)
    )
    for line in lines:
        print(line)
    return 0
