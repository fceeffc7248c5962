"""`adaptrec advise`."""

from __future__ import annotations

import argparse
import re

from benchmark.commands.options import Parser, add_results, name
from methods.errors import UserError

SUMMARY = "Say which row to take, from records: the best, the cheapest that is as good, the best in a budget."
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Letter after a number of a budget -> seconds."""


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--dataset", type=name, help="only this one; by default each, by its most telling table"
    )
    parser.add_argument("--llm", type=name, help="only this language model")
    parser.add_argument("--protocol", type=name, help="only this protocol")
    parser.add_argument(
        "--budget", type=seconds, metavar="TIME",
        help="total cost that a row may have: seconds, or 90s, 10m, 2h; CPU seconds where runs were on a CPU",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=rate, metavar="PRICE", help="of an hour of the machine: adds what each row costs at it"
    )
    add_results(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.report.answer import advices, advised
    from benchmark.results.figures import Results, measured, narrow, read_runs

    named = {name: getattr(options, name) for name in ("dataset", "llm", "protocol")}
    runs = read_runs(options.results)
    only = {name: [value] for name, value in named.items() if value}
    if only:
        kept = set(narrow(measured(runs), only).record.dropna())
        runs = [run for run in runs if run.name in kept]
    found = advices(Results(tuple(runs)))
    if not found:
        raise UserError(
            f"the records below {options.results} have no table with a trained row beside another row to "
            "compare it with: run two methods at least, `adaptrec bench --methods id,tmoe ...`."
        )
    print("\n\n".join(advised(advice, options.budget, options.rate) for advice in found))
    return 0


def seconds(text: str) -> float:
    """`90`, `90s`, `10m` or `2h` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"'{text}' is no time above 0: give seconds, or 90s, 10m, 2h")
    return float(match[1]) * UNITS[match[2]]


def rate(text: str) -> float:
    """A price above 0."""
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no price above 0, such as 2.5")
    return float(text)
