"""`adaptrec speed`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.commands.options import Parser, add_set, protocols, setting
from benchmark.config import PROTOCOLS
from methods.errors import UserError

SUMMARY = "Time training and evaluation steps on this machine."


def fill(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument("--dataset", default="tiny", help="a recipe's name or a folder")
    parser.add_argument("--llm", default="minilm", help="a short name, a hub id or a folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--method", help="see `adaptrec list methods`")
    what.add_argument(
        "--show", type=Path, nargs="+", metavar="FILE",
        help="time nothing: print the tables of records that --json wrote",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", default="paper", choices=list(PROTOCOLS), metavar="PROTOCOL", help=protocols()
    )
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps to time")
    parser.add_argument("--warm-up", type=int, default=5, help="optimiser steps before them")
    parser.add_argument("--passes", type=int, default=3, help="evaluation passes to time")
    parser.add_argument("--epochs", type=int, default=0, help="whole epochs to time, after the steps")
    parser.add_argument(
        "--vary", type=setting, metavar="KEY=VALUE,VALUE,...",
        help="time once for each value of a setting or hyper-parameter, each in a fresh process",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add_set(parser)


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from benchmark.speed.record import read_speed
    from benchmark.speed.table import show

    if options.show:
        for name in ("vary", "json", "set"):
            if getattr(options, name):
                raise UserError(f"--show prints what was measured; --{name} does not go with it.")
        print("\n\n".join([show(read_speed(path)) for path in options.show]))
        return 0
    from benchmark.cell import Cell
    from benchmark.speed.run import speed
    from benchmark.speed.steps import Plan

    cell = Cell(options.dataset, options.llm, options.method, options.protocol, 0, tuple(options.set))
    plan = Plan(options.steps, options.warm_up, options.passes, options.epochs)
    record = speed(cell, options.vary, plan, options.json)
    print(show(record))
    return 0 if all(variant.status == "ok" for variant in record.variants) else 1
