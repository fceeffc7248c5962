"""Prepare data, and execute runs: what the commands of the same names do."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptrec.arguments import asking, given_data, not_empty, pairs
from adaptrec.classes import named_methods
from adaptrec.noise import without_noise
from adaptrec.records import RESULTS, Names, Run, several
from methods.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

    from benchmark.config import Tune
    from benchmark.data.prepare import Prepared
    from benchmark.grid.bench import GridOutcome

    Methods = str | type | Iterable[str | type]


class RunError(RuntimeError):
    """A run did not end well; `run` is its record."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"{run.name}: {run.status}: {run.record.error}")
        self.run = run


@without_noise()
def prepare(
    dataset: str | Path | None = None,
    *,
    interactions: DataFrame | None = None,
    items: DataFrame | None = None,
    name: str = "data",
    recipe: str = "",
    columns: Mapping[str, str] | None = None,
    separator: str = "",
    llm: str | None = None,
    methods: Methods | None = None,
    protocols: Names | None = None,
    **settings: object,
) -> Prepared:
    """A dataset, filtered and split: users' sequences of items, the items' texts, and what was counted.

    `dataset` is a recipe's name or a folder; or give two DataFrames, `interactions` (`user_id`, `item_id`,
    `timestamp`) and `items` (`item_id` and texts), and a `name` for records. `recipe` takes the options of
    that recipe, `columns` maps these names to columns with others. With `llm`, what `methods` read of that
    language model is computed too. Raises `UserError` for a fault in the data.
    """
    from benchmark.config import PROTOCOLS
    from benchmark.grid.prepare import prepare as compute
    from benchmark.run.build import runs_of
    from benchmark.run.spec import check_overrides, prepared_once

    wanted, under = _methods(methods), _names("protocols", protocols)
    given = [] if dataset is None else [dataset]
    data = given_data(given, interactions, items, name, recipe, columns, separator)
    if not data.datasets:
        raise UserError("adaptrec.prepare: give a dataset, or interactions and items.")
    with asking(data), named_methods(wanted) as chosen:
        overrides = pairs(prepare, settings, chosen)
        check_overrides(overrides, chosen)
        prepared = prepared_once(data.datasets[0], data.reading)
        for warning in prepared.warnings:
            _print(f"warning: {warning}")
        if llm is not None:
            runs = runs_of(data.datasets[0], llm, chosen, under or list(PROTOCOLS), overrides, data.reading)
            compute(list(runs), _print)
    return prepared


@without_noise()
def bench(
    datasets: str | Path | Iterable[str | Path] | None = None,
    *,
    interactions: DataFrame | None = None,
    items: DataFrame | None = None,
    name: str = "data",
    recipe: str = "",
    columns: Mapping[str, str] | None = None,
    separator: str = "",
    llms: Names = "minilm",
    methods: Methods | None = None,
    protocols: Names | None = None,
    seeds: int | Iterable[int] = 0,
    tune: Tune | None = None,
    trials: int | None = None,
    metrics: Names | None = None,
    results: str | Path = RESULTS,
    executor: str = "local",
    jobs: int | None = None,
    processes: int = 1,
    cpus: int | None = None,
    ray_address: str | None = None,
    slurm: Mapping[str, object] | None = None,
    fresh: bool = False,
    keep_model: bool = False,
    track: Names | None = None,
    show: bool = True,
    **settings: object,
) -> DataFrame:
    """Execute a grid of runs, each in a fresh process, and return their figures as a long table.

    Arguments mean what the options of `adaptrec bench` mean, and have their defaults; `settings` are what
    `--set` takes (docs/settings.md). Data are named as for `prepare`. Methods are names, or classes at the
    top level of a notebook or script, whose name is that of the class in lower case. Records go below
    `results`. `show` prints the tables. `track` names trackers (docs/tracking.md). Finished runs are not
    repeated. Ctrl-C stops all processes; the next call goes on. A run that failed has no figures but its
    row `finished`, which is 0.

    Raises `UserError` for a mistake, and where no run left a record.
    """
    from benchmark.grid.bench import execute
    from benchmark.grid.executor import Options, make_executor
    from benchmark.grid.request import GridRequest
    from benchmark.results.metrics import chosen_measures
    from benchmark.run.tracking import check_trackers

    measures, folder = chosen_measures(several(metrics)), Path(results)
    trackers, under = check_trackers(several(track)), _names("protocols", protocols)
    wanted, models, numbers = _methods(methods), _names("llms", llms), _numbers(seeds)
    data = given_data(_datasets(datasets), interactions, items, name, recipe, columns, separator)
    asked = tuple(f"{key}={value}" for key, value in (slurm or {}).items())
    options = Options(folder, processes, fresh, jobs, cpus, ray_address, keep_model, trackers, asked)
    with asking(data), named_methods(wanted, executor) as chosen:
        chosen_executor = make_executor(executor, options)
        plan = GridRequest(
            data.datasets, models, chosen, under, numbers, pairs(bench, settings, chosen), data.reading,
            tune, trials, folder,
        ).plan()  # fmt: skip
        outcome = execute(plan, chosen_executor, folder)
    return _table(outcome, folder, measures, show)


@without_noise()
def run(
    dataset: str | Path | None = None,
    method: str | type = "",
    *,
    interactions: DataFrame | None = None,
    items: DataFrame | None = None,
    name: str = "data",
    recipe: str = "",
    columns: Mapping[str, str] | None = None,
    separator: str = "",
    llm: str = "minilm",
    protocol: str = "paper",
    seed: int = 0,
    results: str | Path = RESULTS,
    processes: int = 1,
    fresh: bool = False,
    keep_model: bool = False,
    track: Names | None = None,
    **settings: object,
) -> Run:
    """Execute one run in a fresh process, or read its record if it is finished.

    Arguments as for `bench`. Raises `UserError` for a mistake and `RunError` where the run did not end well.
    """
    from benchmark.grid.executor import Options
    from benchmark.grid.local import LocalExecutor
    from benchmark.results.store import as_stored
    from benchmark.run.spec import RunSpec, resolve_run
    from benchmark.run.tracking import check_trackers

    trackers = check_trackers(several(track))
    given = [] if dataset is None else [dataset]
    data = given_data(given, interactions, items, name, recipe, columns, separator)
    if not data.datasets or not method:
        raise UserError("adaptrec.run: give a dataset, or interactions and items; and a method.")
    with asking(data), named_methods([method]) as chosen:
        assert chosen is not None
        overrides = pairs(run, settings, chosen)
        (number,) = _numbers(seed)
        spec = RunSpec(data.datasets[0], llm, chosen[0], protocol, number, overrides, data.reading)
        resolved = resolve_run(spec)
        for warning in resolved.prepared.warnings:
            _print(f"warning: {warning}")
        options = Options(Path(results), processes, fresh, keep_model=keep_model, track=trackers)
        with LocalExecutor(options) as executor:
            record = executor.run([resolved]).get(resolved)
    if record is None:
        raise UserError(f"{spec} left no record; the lines above say why.")
    done = Run(as_stored(record, Path(results)))
    if done.status != "ok":
        raise RunError(done)
    return done


def _table(outcome: GridOutcome, results: Path, metrics: Sequence[str], show: bool) -> DataFrame:
    """The figures of a bench as a long table; `show` prints them as well."""
    from benchmark.grid.bench import show as print_tables
    from benchmark.results.figures import measured

    if not outcome.records:
        raise UserError(f"none of the {outcome.total} runs left a record; the lines above say why.")
    if show:
        print_tables(outcome, results, metrics)
    return measured(outcome.runs(results, metrics), metrics)


def _datasets(datasets: str | Path | Iterable[str | Path] | None) -> list[str | Path]:
    if datasets is None or isinstance(datasets, str | Path):
        return [] if datasets is None else [datasets]
    return not_empty("datasets", list(datasets))


def _methods(methods: Methods | None) -> list[str | type] | None:
    if methods is None or isinstance(methods, str | type):
        return None if methods is None else [methods]
    return not_empty("methods", list(methods))


def _names(argument: str, names: Names | None) -> list[str]:
    """The names, each once; none where the argument is left out."""
    return [] if names is None else not_empty(argument, several(names))


def _numbers(seeds: int | Iterable[int]) -> list[int]:
    """The seeds, each once."""
    from numbers import Integral  # NumPy's whole numbers too

    given = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    if wrong := [seed for seed in given if not isinstance(seed, Integral)]:
        raise UserError(f"a seed must be a whole number, got {wrong[0]!r}.")
    return not_empty("seeds", list(dict.fromkeys(map(int, given))))


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
