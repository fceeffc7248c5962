"""`adaptrec run`."""

from __future__ import annotations

import argparse
import sys

from benchmark.commands.options import Parser, add_common, add_keep_model, add_run, add_track, name, spec
from benchmark.escape import visible_line
from benchmark.process.exit_status import ExitCode
from methods.errors import UserError

SUMMARY = "Execute one run and print the path of its record."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    add_run(parser)
    parser.add_argument("--method", type=name, help="see `adaptrec list methods`")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random number")
    add_common(parser)
    add_keep_model(parser)
    add_track(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last epoch (what happens anyway)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="discard a finished record or a checkpoint and run anew"
    )
    parser.add_argument(
        "--spec", metavar="JSON",
        help="the run as JSON, in place of the options that describe it: what executors pass",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.run.run import run
    from benchmark.run.spec import specs_from_json
    from benchmark.run.tracking import check_trackers

    specs = specs_from_json(options.spec) if options.spec else [spec(options)]
    if len(specs) != 1:
        raise UserError(f"--spec must describe one run, got {len(specs)}.")
    track = check_trackers(options.track)
    path, record = run(specs[0], options.results, options.fresh, options.keep_model, track)
    if record.status != "ok":
        print(visible_line(f"adaptrec: {record.status}: {record.error}"), file=sys.stderr)
    print(path)
    return ExitCode.OK if record.status == "ok" else ExitCode.FAILED
