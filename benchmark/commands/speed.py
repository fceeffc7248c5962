"""`adaptrec speed`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmark.commands.options import Parser, add_run, add_set, name, output_file, setting, spec
from benchmark.grid.defaults import default_datasets, default_method
from benchmark.process.exit_status import ExitCode
from methods.errors import UserError

SUMMARY = "Time training and evaluation steps on this machine."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_run(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--method",
        type=name,
        help="see `adaptrec list methods`; the method that the paper proposes when left out",
    )
    what.add_argument(
        "--show", type=Path, nargs="+", metavar="FILE",
        help="time nothing: print the tables of records that --json wrote",
    )  # fmt: skip
    parser.add_argument(
        "--brief", action="store_true", help="with --show: a line a variant, one table of all"
    )
    what.add_argument(
        "--guard", type=Path, metavar="FILE",
        help="time nothing: count what the runs of FILE execute on a CPU; status 1 where FILE expects less",
    )  # fmt: skip
    parser.add_argument(
        "--write", action="store_true", help="with --guard: expect from now on what is counted"
    )
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps to time")
    parser.add_argument("--warm-up", type=int, default=5, help="optimiser steps before them")
    parser.add_argument("--passes", type=int, default=3, help="evaluation passes to time")
    parser.add_argument("--epochs", type=int, default=0, help="whole epochs to time, after the steps")
    parser.add_argument(
        "--vary", type=setting, metavar="KEY=VALUE,VALUE,...",
        help="time once for each value of a setting or hyper-parameter, each in a fresh process",
    )  # fmt: skip
    parser.add_argument(
        "--against", type=Path, metavar="FILE",
        help="print the ratio to the figures of this earlier record of the same thing",
    )  # fmt: skip
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures to this file too")
    add_set(parser)


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    if options.brief and not options.show:
        raise UserError("--brief is a way to --show FILE; give both.")
    if options.write and not options.guard:
        raise UserError("--write sets what --guard FILE expects from now on; give both.")
    if options.guard:
        return _guard(options)
    from benchmark.speed.record import read_speed
    from benchmark.speed.tables import brief, compare, show

    if options.show:
        _check_alone(options, "show", "prints what was measured", ("vary", "json", "set"))
        records, status = [read_speed(path) for path in options.show], ExitCode.OK
    else:
        from benchmark.speed.measure import Amounts
        from benchmark.speed.run import measure_speed

        options.dataset = options.dataset or default_datasets([options.llm])[0]
        options.method = options.method or default_method()
        amounts = Amounts(options.steps, options.warm_up, options.passes, options.epochs)
        records = [measure_speed(spec(options), options.vary, amounts, options.json, options.against)]
        good = all(variant.status == "ok" for variant in records[0].variants)
        status = ExitCode.OK if good else ExitCode.FAILED
    if options.brief:
        print(brief(records))
        return status
    texts = [show(record) for record in records]
    if options.against:
        then = read_speed(options.against)
        texts += [compare(record, then, options.against) for record in records]
    print("\n\n".join(texts))
    return status


def _guard(options: argparse.Namespace) -> int:
    _check_alone(options, "guard", "counts what its file names", ("vary", "json", "set", "against"))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: what is expected is a CPU's
    from benchmark.speed.guard import guard

    text, good = guard(options.guard, options.write)
    print(text)
    return ExitCode.OK if good else ExitCode.FAILED


def _check_alone(options: argparse.Namespace, name: str, does: str, others: tuple[str, ...]) -> None:
    for other in others:
        if getattr(options, other):
            raise UserError(f"--{name} {does}; --{other} does not go with it.")
