"""`adaptrec bench`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.commands.options import (
    Parser,
    add_common,
    add_keep_model,
    add_metrics,
    add_reading,
    add_source,
    add_track,
    metrics,
    name,
    names,
    numbers,
    overrides,
    protocols,
    reading,
)
from benchmark.commands.report import write_report
from benchmark.config import SEARCHED, TRIALS, TUNE
from benchmark.grid.defaults import EMBEDDED_LLM, default_report, default_source

if TYPE_CHECKING:
    from benchmark.grid.request import GridRequest

SUMMARY = "Execute a grid of runs, each in a fresh process, and print the tables."


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--datasets", "--dataset", type=names,
        help="names or folders, by commas; when left out, tiny for the language model minilm and the "
        "datasets of the paper's study for any other one",
    )  # fmt: skip
    add_reading(parser)
    parser.add_argument(
        "--llms",
        "--llm",
        type=names,
        default=[EMBEDDED_LLM],
        help="names, hub ids, folders or addresses of servers, by commas",
    )
    parser.add_argument(
        "--methods",
        "--method",
        type=names,
        help="by commas; all: every one; when left out, those that `adaptrec list methods` does not mark",
    )
    parser.add_argument(
        "--protocols", "--protocol", type=names,
        help=f"by commas: {protocols()}; when left out, paper,fair for the language model minilm and paper "
        "for any other one",
    )  # fmt: skip
    parser.add_argument("--seeds", "--seed", type=numbers, default=[0], help="by commas")
    parser.add_argument(
        "--tune", choices=list(TUNE), metavar="|".join(TUNE),
        help="; ".join(f"{name}: {what}" for name, what in TUNE.items())
        + f"; when left out: search under protocol {SEARCHED}; without it, paper if there are values for "
        "every language model and dataset, else none",
    )  # fmt: skip
    parser.add_argument(
        "--trials", type=int, metavar="N", help=f"trials of each search; {TRIALS} when left out"
    )
    _add_executor(parser)
    add_common(parser, results=None)
    add_keep_model(parser)
    add_track(parser)
    add_metrics(parser)
    parser.add_argument(
        "--report", type=Path, nargs="?", const=True, metavar="DIR",
        help="also write the report of the records, into DIR or into reports (reports/tiny for planted "
        "datasets)",
    )  # fmt: skip
    add_source(parser, None, "; when left out, ours for planted datasets and both for others")
    parser.add_argument("--fresh", action="store_true", help="repeat finished runs")
    parser.add_argument(
        "--dry-run", action="store_true", help="run nothing; print the plan and estimate what it will cost"
    )


def _add_executor(parser: Parser) -> None:
    """The options that say where runs are executed, and how many at a time."""
    parser.add_argument("--processes", type=int, default=1, help="processes (GPUs) of each run")
    parser.add_argument(
        "--executor", type=name, default="local",
        help="local: this machine; ray or slurm: a cluster, which needs `pip install 'adaptrec[ray]'` or "
        "`pip install 'adaptrec[slurm]'`; or one of another package (docs/grid.md)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int,
        help="runs at a time: each has GPUs of its own; on a CPU they share the processor, and times "
        "mislead; 1 on this machine, as many as there is room for on a cluster, when left out",
    )  # fmt: skip
    parser.add_argument("--cpus", type=int, help="CPUs of each run on a cluster; one a process when left out")
    parser.add_argument("--ray-address", help="the cluster; $RAY_ADDRESS, else this machine, when left out")
    parser.add_argument(
        "--slurm", nargs="+", default=(), metavar="KEY=VALUE",
        help="what each run asks of Slurm: partition, gpus, time, mem, array and others (docs/grid.md)",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Execute the command; returns the exit status."""
    from benchmark.grid.bench import bench
    from benchmark.grid.executor import Options, make_executor
    from benchmark.run.tracking import check_trackers

    columns = metrics(options)  # a wrong name ends the command before anything is run
    asked = request(options)
    executor_options = Options(
        asked.results, options.processes, options.fresh, options.jobs, options.cpus, options.ray_address,
        options.keep_model, check_trackers(options.track), tuple(options.slurm),
    )  # fmt: skip
    executor = make_executor(options.executor, executor_options)
    plan = asked.plan()
    if options.dry_run:
        from benchmark.grid.dryrun import dry_run

        return dry_run(plan, executor_options)
    status = bench(plan, executor, asked.results, columns)
    if options.report:
        source = options.source or default_source(asked.datasets)
        # True: no folder was given
        out = default_report(source, asked.datasets) if options.report is True else options.report
        write_report(asked.results, out, source, columns)
    return status


def request(options: argparse.Namespace) -> GridRequest:
    """What the options ask for."""
    from benchmark.grid.request import GridRequest

    return GridRequest(
        options.datasets or (), options.llms, options.methods, options.protocols or (), options.seeds,
        overrides(options), reading(options), options.tune, options.trials, options.results,
    )  # fmt: skip
