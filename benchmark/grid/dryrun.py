"""`bench --dry-run`: print what a plan will cost in time, memory and disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tabulate import tabulate

from benchmark.escape import visible_line
from benchmark.files import cache_folder
from benchmark.grid.estimate import STATES, CostEstimate, CostRow, estimate, sum_ranges
from benchmark.grid.executor import Options
from benchmark.grid.local import visible_gpus
from benchmark.grid.plan import GridPlan
from benchmark.grid.probe import StoredStates, probe_states, probe_training
from benchmark.grid.progress import Range
from benchmark.grid.search import configuration_name
from benchmark.llm.token_states import SPARE, free_bytes
from benchmark.process.memory import available_memory
from benchmark.run.spec import ResolvedRun
from benchmark.speed.record import Variant
from benchmark.train.status import duration, time_range

GIB = 2**30
HEADS = [
    "configuration", "seeds", *STATES, "epochs", "s/epoch", "evaluation s", "host GiB", "GPU GiB", "about",
    "time", "from",
]  # fmt: skip


def dry_run(plan: GridPlan, options: Options) -> int:
    """Print what `plan` would do and cost. -> 0, or 1 where disk or memory will not do."""
    plan = plan.continued(options.results)
    for line in plan.notes:
        print(f"tuning: {line}")
    estimated = estimate(plan, options.results, options.fresh, _probe, options.keep_model)
    groups: dict[tuple[str, str], list[ResolvedRun]] = {}
    for run in (run for row in estimated.rows for run in row.left):
        groups.setdefault((run.spec.dataset, run.spec.llm), []).append(run)
    stored = [states for group in groups.values() for states in probe_states(group)]
    print(
        tabulate(
            [_cells(row) for row in estimated.rows], HEADS, tablefmt="pipe", disable_numparse=True,
            colalign=["left", *["right"] * (len(HEADS) - 2), "left"],
        )
    )  # fmt: skip
    print()
    for search, seconds in estimated.then:
        print(f"then: {search}: {time_range(*seconds)}")
    for states in stored:
        cost = "there already" if states.cached else f"{time_range(*states.seconds)} to compute"
        print(f"{states.name}: {_gib(states.size)}, {cost}")
    missing = [states for states in stored if not states.cached]
    print(_total(estimated, missing, options))
    print(_uncertain(estimated))
    shortages = _shortages(estimated, missing, options)
    for line in shortages:
        print(f"adaptrec: {line}", file=sys.stderr)
    return 1 if shortages else 0


def _probe(run: ResolvedRun) -> tuple[Variant, float]:
    print(f"a few steps of {run}", file=sys.stderr, flush=True)
    return probe_training(run)


def _cells(row: CostRow) -> list[str]:
    """A line of the table."""
    spec, figures = row.run.spec, row.figures
    extra = f" ({', '.join(spec.overrides)})" if spec.overrides else ""
    counts = [str([*row.states.values()].count(state) or "") for state in STATES]
    seeds = ", ".join(str(run.spec.seed) for run in row.states)
    head = [visible_line(f"{configuration_name(row.run)}{extra}"), seeds, *counts]
    if figures.failed:
        return [*head, *[""] * 7, figures.source]
    return [
        *head,
        _span(row.epochs, ".0f"),
        _span(figures.epoch, ".3g"),
        _span(figures.evaluation, ".3g"),
        *("" if peak is None else _gib(peak, unit="") for peak in (figures.host, figures.gpu)),
        duration(row.about) if row.about is not None else "",
        time_range(*row.seconds),
        figures.source,
    ]


def _span(values: Range, form: str) -> str:
    return " to ".join(dict.fromkeys(format(value, form) for value in values))


def _gib(size: int, unit: str = " GiB") -> str:
    return f"{size / GIB:.2f}{unit}" if size >= 0.01 * GIB else f"under 0.01{unit}"


def _total(estimated: CostEstimate, missing: Sequence[StoredStates], options: Options) -> str:
    """The sum of it all; `missing` hidden states are computed first."""
    runs, jobs = sum(len(row.states) for row in estimated.rows), options.jobs or 1
    then = sum(search.later for search, _ in estimated.then)
    counts = ", ".join(f"{estimated.count(state)} {state}" for state in STATES)
    low, high = estimated.seconds
    # runs side by side on a processor share it: they need not be quicker than one after another
    seconds = sum_ranges(
        [(low / jobs, high / (jobs if visible_gpus() else 1)), *(entry.seconds for entry in missing)]
    )
    return (
        f"{runs} run{'s' if runs != 1 else ''}: {counts}{f', then {then} more' if then else ''}. "
        f"In all {_about(estimated)}{time_range(*seconds)}{f' with {jobs} at a time' if jobs > 1 else ''}; "
        f"cache {_gib(sum(entry.size for entry in missing))} more, "
        f"{_gib(free_bytes(cache_folder()))} free in {cache_folder()}."
    )


def _about(estimated: CostEstimate) -> str:
    """The sum of the middle estimates, of runs one after another, where every row has one."""
    return "" if estimated.about is None else f"about {duration(estimated.about)} one after another, "


def _uncertain(estimated: CostEstimate) -> str:
    """How far the figures can be trusted."""
    line = "Early stopping decides how many epochs a run has: its time lies anywhere in that range"
    line += ", about where the most similar finished runs ended." if estimated.about is not None else "."
    if starts := [row.figures.start for row in estimated.rows if row.figures.source == "probe"]:
        line += (
            " Seconds of a probe are those of a few steps on made-up states, on this machine as busy as it "
            f"is now (and {duration(max(starts))} at most to start a run): half or twice as much is no "
            "surprise."
        )
    return line


def _shortages(estimated: CostEstimate, missing: Sequence[StoredStates], options: Options) -> list[str]:
    """What prevents the plan: a line each."""
    unfinished = [row for row in estimated.rows if row.left]
    lines = [f"{row.run} cannot run: {row.figures.failed}" for row in unfinished if row.figures.failed]
    disk, free = sum(entry.size for entry in missing), free_bytes(cache_folder())
    if disk + SPARE > free:
        lines.append(
            f"the disk of {cache_folder()} has {_gib(free)} free; hidden states want {_gib(disk)}, and "
            f"{_gib(SPARE)} must stay free: free some, or set ADAPTREC_CACHE to a larger disk."
        )
    at_a_time = (options.jobs or 1) * options.processes
    host = at_a_time * max((row.figures.host or 0 for row in unfinished), default=0)
    if host > (memory := int(available_memory())):
        lines.append(
            f"{at_a_time} processes at a time want {_gib(host)} of memory; {_gib(memory)} are available: "
            "give fewer --jobs."
        )
    return lines
