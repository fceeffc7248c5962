"""`bench --dry-run`: the plan as a table, its time, memory and disk estimated. The store stays as it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import psutil
from tabulate import tabulate

from benchmark.data.paths import cache_folder
from benchmark.grid.estimate import STATES, Estimate, Row, estimate
from benchmark.grid.executor import Options
from benchmark.grid.local import visible_gpus
from benchmark.grid.plan import Plan
from benchmark.grid.probe import Stored, probe_states, probe_training
from benchmark.llm.token_states import SPARE, free_bytes
from benchmark.run.spec import ResolvedRun, RunSpec
from benchmark.speed.record import Variant
from benchmark.train.told import duration, time_range

GIB = 2**30


def dry_run(plan: Plan, options: Options) -> int:
    """Print what `plan` would do and cost. -> 0, or 1 where disk or memory will not do."""
    cells = plan.stages[0].cells
    for line in plan.notes:
        print(f"tuning: {line}")
    found = estimate(plan, options.results, options.fresh, _probing)
    stored = _stored([cell for row in found.rows for cell in row.left])
    print(_table(found.rows))
    print()
    for search, seconds in found.then:
        print(f"then: {search}: {time_range(*seconds)}")
    for one in stored:
        cost = "there already" if one.there else f"{time_range(*one.seconds)} to compute"
        print(f"{one.what}: {_gib(one.size)}, {cost}")
    print(_total(found, stored, options, len(cells)))
    print(_uncertain(found))
    shortages = _shortages(found, stored, options)
    for line in shortages:
        print(f"adaptrec: {line}", file=sys.stderr)
    return 1 if shortages else 0


def _probing(resolved: ResolvedRun) -> tuple[Variant, float]:
    print(f"a few steps of {resolved.spec}", file=sys.stderr, flush=True)
    return probe_training(resolved)


def _stored(cells: Sequence[RunSpec]) -> list[Stored]:
    groups: dict[tuple[str, str], list[RunSpec]] = {}
    for cell in cells:
        groups.setdefault((cell.dataset, cell.llm), []).append(cell)
    return [one for group in groups.values() for one in probe_states(group)]


def _table(rows: Sequence[Row]) -> str:
    """A row a configuration (Markdown)."""
    headers = [
        "configuration", "seeds", *STATES, "epochs", "s/epoch", "evaluation s",
        "host GiB", "GPU GiB", "time", "from",
    ]  # fmt: skip
    return tabulate(
        [_cells(row) for row in rows], headers, tablefmt="pipe", disable_numparse=True,
        colalign=["left", *["right"] * (len(headers) - 2), "left"],
    )  # fmt: skip


def _cells(row: Row) -> list[str]:
    cell, figures = row.cell, row.figures
    extra = f" ({', '.join(cell.overrides)})" if cell.overrides else ""
    name = f"{cell.dataset} {cell.llm} {cell.method} {cell.protocol}{extra}"
    counts = [str(row.count(state) or "") for state in STATES]
    head = [name, ", ".join(str(one.seed) for one in row.states), *counts]
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


def _total(found: Estimate, stored: Sequence[Stored], options: Options, cells: int) -> str:
    """The sum of it all."""
    counts = ", ".join(f"{found.count(state)} {state}" for state in STATES)
    then = sum(len(search.seeds) for search, _ in found.then)
    more = f", then {then} more" if then else ""
    low, high = found.seconds
    jobs = options.jobs or 1
    before = [one.seconds for one in stored if not one.there]
    low = low / jobs + sum(span[0] for span in before)
    # cells side by side on a processor share it: they need not be quicker than one after another
    high = high / (jobs if visible_gpus() else 1) + sum(span[1] for span in before)
    disk = sum(one.size for one in stored if not one.there)
    several = f" with {jobs} at a time" if jobs > 1 else ""
    count = f"{cells} cell{'s' if cells != 1 else ''}"
    return (
        f"{count}: {counts}{more}. In all {time_range(low, high)}{several}; cache {_gib(disk)} more, "
        f"{_gib(free_bytes(cache_folder()))} free in {cache_folder()}."
    )


def _uncertain(found: Estimate) -> str:
    """How far the figures can be trusted."""
    said = "Early stopping decides how many epochs a run has: its time lies anywhere in that range."
    starts = [row.figures.start for row in found.rows if row.figures.source == "probe"]
    if starts:
        said += (
            " Seconds of a probe are those of a few steps on made-up states, on this machine as busy as it "
            f"is now (and {duration(max(starts))} at most to start a cell): half or twice as much is no "
            "surprise."
        )
    return said


def _shortages(found: Estimate, stored: Sequence[Stored], options: Options) -> list[str]:
    """What will not do: a line each."""
    lines = [f"{row.cell} cannot run: {row.figures.failed}" for row in found.failures]
    disk, free = sum(one.size for one in stored if not one.there), free_bytes(cache_folder())
    if disk + SPARE > free:
        lines.append(
            f"the disk of {cache_folder()} has {_gib(free)} free; hidden states want {_gib(disk)}, and "
            f"{_gib(SPARE)} must stay free: free some, or set ADAPTREC_CACHE to a larger disk."
        )
    at_a_time, host = (options.jobs or 1) * options.processes, found.peak("host")
    memory = psutil.virtual_memory().available
    if host and host * at_a_time > memory:
        lines.append(
            f"{at_a_time} processes at a time want {_gib(host * at_a_time)} of memory; {_gib(memory)} are "
            "available: give fewer --jobs."
        )
    return lines
