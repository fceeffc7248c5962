"""What a catalogue of any size would cost, on paper; what is assumed can be changed.

python studies arithmetic --llm random-distilbert --set items=1000000 users=1000000 gpu_hour=2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields

from benchmark.commands.options import Parser, names, numbers, protocols
from benchmark.config import PROTOCOLS, parse
from methods.errors import UserError
from studies.arithmetic.cost import Assumptions


def main(arguments: Sequence[str]) -> int:
    """Print the tables; returns the exit status."""
    print(_tables(_parser().parse_args(arguments)))
    return 0


def _parser() -> Parser:
    known = ", ".join(f"{field.name}={field.default}" for field in fields(Assumptions))
    parser = Parser("python studies arithmetic", description="Cost of a catalogue, on paper.")
    parser.add_argument("--llm", default="random-distilbert", help="whose shape is counted")
    parser.add_argument("--methods", type=names, help="by commas; all but frames if not given")
    parser.add_argument(
        "--protocol", default="fair", choices=list(PROTOCOLS), metavar="PROTOCOL", help=protocols()
    )
    parser.add_argument("--gpus", type=numbers, default=[1, 8, 64], help="numbers of GPUs, by commas")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=f"assumptions: {known}"
    )
    return parser


def _tables(options: argparse.Namespace) -> str:
    pairs = {}
    for pair in options.set:
        key, sign, value = pair.partition("=")
        if not sign:
            raise UserError(f"--set takes key=value, got '{pair}'.")
        pairs[key] = value
    assumed = parse(Assumptions, pairs, "--set")
    if min(options.gpus) < 1:
        raise UserError("--gpus must be 1 or more.")
    from benchmark.llm.catalogue import resolve
    from methods import registry
    from studies.arithmetic.table import show
    from studies.arithmetic.work import count, llm_forward, schedule

    llm = resolve(options.llm)
    tokens = min(assumed.text_tokens, llm.max_tokens)
    chosen = registry.chosen_names(options.methods)
    works = [count(name, llm, tokens, options.protocol) for name in chosen]
    forward = llm_forward(llm, tokens)
    return show(works, llm.name, forward, assumed, schedule(options.protocol), options.gpus)
