"""`bench --dry-run`: print the plan and estimate its time, memory and disk. The store does not change."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import psutil
from tabulate import tabulate

from benchmark.data.paths import cache_folder
from benchmark.grid.estimate import STATES, CostEstimate, CostRow, estimate
from benchmark.grid.executor import Options
from benchmark.grid.local import visible_gpus
from benchmark.grid.plan import GridPlan, configuration_name
from benchmark.grid.probe import StoredStates, probe_states, probe_training
from benchmark.llm.states import SPARE, free_bytes
from benchmark.run.spec import ResolvedRun
from benchmark.speed.record import Variant
from benchmark.train.status import duration, time_range

GIB = 2**30


def dry_run(plan: GridPlan, options: Options) -> int:
    """Print what `plan` would do and cost. -> 0, or 1 where disk or memory will not do."""
    for line in plan.notes:
        print(f"tuning: {line}")
    estimated = estimate(plan, options.results, options.fresh, _probing)
    stored = _stored([run for row in estimated.rows for run in row.left])
    print(_table(estimated.rows))
    print()
    for search, seconds in estimated.then:
        print(f"then: {search}: {time_range(*seconds)}")
    for states in stored:
        cost = "there already" if states.cached else f"{time_range(*states.seconds)} to compute"
        print(f"{states.name}: {_gib(states.size)}, {cost}")
    print(_total(estimated, stored, options, len(plan.known_runs)))
    print(_uncertain(estimated))
    shortages = _shortages(estimated, stored, options)
    for line in shortages:
        print(f"adaptrec: {line}", file=sys.stderr)
    return 1 if shortages else 0


def _probing(run: ResolvedRun) -> tuple[Variant, float]:
    print(f"a few steps of {run}", file=sys.stderr, flush=True)
    return probe_training(run)


def _stored(runs: Sequence[ResolvedRun]) -> list[StoredStates]:
    groups: dict[tuple[str, str], list[ResolvedRun]] = {}
    for run in runs:
        groups.setdefault((run.spec.dataset, run.spec.llm), []).append(run)
    return [states for group in groups.values() for states in probe_states(group)]


def _table(rows: Sequence[CostRow]) -> str:
    """A row a configuration (Markdown)."""
    headers = [
        "configuration", "seeds", *STATES, "epochs", "s/epoch", "evaluation s",
        "host GiB", "GPU GiB", "time", "from",
    ]  # fmt: skip
    return tabulate(
        [_cells(row) for row in rows], headers, tablefmt="pipe", disable_numparse=True,
        colalign=["left", *["right"] * (len(headers) - 2), "left"],
    )  # fmt: skip


def _cells(row: CostRow) -> list[str]:
    spec, figures = row.run.spec, row.figures
    extra = f" ({', '.join(spec.overrides)})" if spec.overrides else ""
    name = f"{configuration_name(row.run)}{extra}"
    counts = [str(row.count(state) or "") for state in STATES]
    head = [name, ", ".join(str(run.spec.seed) for run in row.states), *counts]
    if figures.failed:
        return [*head, *[""] * 6, figures.source]
    return [
        *head,
        _span(row.epochs, ".0f"),
        _span(figures.epoch, ".3g"),
        _span(figures.evaluation, ".3g"),
        "" if figures.host is None else _gib(figures.host, unit=""),
        "" if figures.gpu is None else _gib(figures.gpu, unit=""),
        time_range(*row.seconds),
        figures.source,
    ]


def _span(values: tuple[float, float], form: str) -> str:
    low, high = (format(value, form) for value in values)
    return low if low == high else f"{low} to {high}"


def _gib(size: int, unit: str = " GiB") -> str:
    return f"{size / GIB:.2f}{unit}" if size >= 0.01 * GIB else f"under 0.01{unit}"


def _total(estimated: CostEstimate, stored: Sequence[StoredStates], options: Options, runs: int) -> str:
    """The sum of it all."""
    counts = ", ".join(f"{estimated.count(state)} {state}" for state in STATES)
    then = sum(search.later for search, _ in estimated.then)
    more = f", then {then} more" if then else ""
    low, high = estimated.seconds
    jobs = options.jobs or 1
    before = [states.seconds for states in stored if not states.cached]
    low = low / jobs + sum(span[0] for span in before)
    # runs side by side on a processor share it: they need not be quicker than one after another
    high = high / (jobs if visible_gpus() else 1) + sum(span[1] for span in before)
    disk = sum(states.size for states in stored if not states.cached)
    several = f" with {jobs} at a time" if jobs > 1 else ""
    count = f"{runs} run{'s' if runs != 1 else ''}"
    return (
        f"{count}: {counts}{more}. In all {time_range(low, high)}{several}; cache {_gib(disk)} more, "
        f"{_gib(free_bytes(cache_folder()))} free in {cache_folder()}."
    )


def _uncertain(estimated: CostEstimate) -> str:
    """How far the figures can be trusted."""
    line = "Early stopping decides how many epochs a run has: its time lies anywhere in that range."
    starts = [row.figures.start for row in estimated.rows if row.figures.source == "probe"]
    if starts:
        line += (
            " Seconds of a probe are those of a few steps on made-up states, on this machine as busy as it "
            f"is now (and {duration(max(starts))} at most to start a run): half or twice as much is no "
            "surprise."
        )
    return line


def _shortages(estimated: CostEstimate, stored: Sequence[StoredStates], options: Options) -> list[str]:
    """What prevents the plan: a line each."""
    lines = [f"{row.run} cannot run: {row.figures.failed}" for row in estimated.failures]
    disk, free = sum(states.size for states in stored if not states.cached), free_bytes(cache_folder())
    if disk + SPARE > free:
        lines.append(
            f"the disk of {cache_folder()} has {_gib(free)} free; hidden states want {_gib(disk)}, and "
            f"{_gib(SPARE)} must stay free: free some, or set ADAPTREC_CACHE to a larger disk."
        )
    at_a_time, host = (options.jobs or 1) * options.processes, estimated.peak("host")
    memory = psutil.virtual_memory().available
    if host and host * at_a_time > memory:
        lines.append(
            f"{at_a_time} processes at a time want {_gib(host * at_a_time)} of memory; {_gib(memory)} are "
            "available: give fewer --jobs."
        )
    return lines
