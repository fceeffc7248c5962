"""Expand lists of names into a plan: the runs of a grid, the searches of tuning, and the order of both.

Every name and value is checked before the first run starts. A plan is data: executors execute its runs, a
dry run prints them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmark.config import (
    NO_PROTOCOL,
    SEARCHED,
    TRIALS,
    TUNE,
    Tune,
    held,
)
from benchmark.data.catalogue import find
from benchmark.data.recipe import NO_OPTIONS, FolderOptions
from benchmark.grid.search import Search, configuration_name
from benchmark.grid.space import check_optuna, first_trials, pairs, space_of, with_values
from benchmark.results.published import best_values, dataset_of
from benchmark.results.record import NO_LLM
from benchmark.results.tuning import Tuning
from benchmark.run.spec import (
    ResolvedRun,
    RunSpec,
    applicable,
    check_overrides,
    check_protocol,
    check_unread,
    find_llm,
    needs_llm,
    resolve_run,
)
from methods import registry
from methods.controls.base import Control
from methods.errors import UserError, unknown


@dataclass
class GridPlan:
    """All that a bench will execute: `known_runs`, then what the searches decide on."""

    runs: list[ResolvedRun] = field(default_factory=list)
    """What runs as it is: no search decides on it."""
    searches: list[Search] = field(default_factory=list)
    origins: dict[ResolvedRun, Tuning] = field(default_factory=dict)
    """Those of `runs` with values that the paper published, or that are given under the protocol whose other
    rows are searched -> where they come from."""
    notes: list[str] = field(default_factory=list)
    """What tuning leaves as it is, and why; a line each."""

    def continued(self, results: Path) -> GridPlan:
        """The plan, whose searches in a space go on from the trials that are recorded below `results`."""
        return replace(
            self, searches=[search.continued(results) if search.space else search for search in self.searches]
        )

    @property
    def known_runs(self) -> list[ResolvedRun]:
        """The runs that depend on no result, which may run side by side."""
        return [*self.runs, *(trial for search in self.searches for trial in search.trials)]


def expand(
    datasets: Sequence[str],
    llms: Sequence[str],
    methods: Sequence[str] | None,
    protocols: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    reading: FolderOptions = NO_OPTIONS,
) -> list[RunSpec]:
    """All runs, in the order dataset, language model, protocol, method, seed.

    A method that reads no language model has one run, with NO_LLM, not one for each language model, and a
    control one, with NO_PROTOCOL, whatever the protocols and seeds. An
    override goes to the methods that have such a hyper-parameter; one that no method has raises `UserError`,
    as does any name that does not exist.
    """
    names = registry.chosen_names(methods)
    classes = {name: registry.load(name) for name in names}
    for dataset in datasets:
        find(dataset, reading)
    trained = [name for name, cls in classes.items() if not issubclass(cls, Control)]
    for protocol in protocols:
        if trained or protocol != NO_PROTOCOL:
            check_protocol(protocol)
    check_overrides(overrides, methods)
    own = {name: applicable(overrides, cls) for name, cls in classes.items()}
    readers = {name for name, cls in classes.items() if needs_llm(cls, own[name])}
    for llm in llms:
        if readers:
            find_llm(llm)
        else:
            check_unread(llm)
    specs = {
        RunSpec(
            dataset,
            llm if name in readers else NO_LLM,
            name,
            *((protocol, seed) if name in trained else (NO_PROTOCOL, 0)),
            own[name],
            reading,
        ): None
        for dataset, llm, protocol, name, seed in product(datasets, llms, protocols, names, seeds)
    }
    return list(specs)


def make_plan(specs: Iterable[RunSpec], tune: Tune | None = None, trials: int | None = None) -> GridPlan:
    """Resolve `specs` and plan them under `tune`; None searches under `config.SEARCHED` and nothing else.

    Trials take the first seed of a configuration, the chosen one the others too. Where tuning sets something
    of a setting, the user's overrides and what `config.held` names stay as they are. Every search has
    `trials` trials (`config.TRIALS` if None). Raises `UserError` where the paper has no values for a method
    that it tuned, where no trial can be run, and where `tune` does not fit the protocols.
    """
    specs = list(dict.fromkeys(specs))
    _check_tune({spec.protocol for spec in specs} - {NO_PROTOCOL}, tune, trials)
    plan = GridPlan()
    for seeds in by_configuration(map(resolve_run, specs)):
        run = seeds[0]
        way = tune or ("search" if run.spec.protocol == SEARCHED else "none")
        if way == "none" or run.control:  # a control chooses its settings itself
            plan.runs += seeds
            if run.spec.protocol == SEARCHED:
                _add_given(plan, seeds)
        elif way == "search":
            _add_search(plan, seeds, TRIALS if trials is None else trials)
        elif not run.cls.grid:
            plan.notes.append(f"{run.spec.method} has nothing to tune and runs as it is")
            plan.runs += seeds
        elif way == "grid":
            _add_grid(plan, seeds)
        else:
            _add_published(plan, seeds)
    plan.notes = list(dict.fromkeys(plan.notes))
    return plan


def _check_tune(protocols: set[str], tune: Tune | None, trials: int | None) -> None:
    """Raise `UserError` where --tune, --trials and --protocols do not fit together."""
    if tune is not None and tune not in TUNE:
        raise unknown("value of --tune:", tune, TUNE)
    if tune == "search" and (others := sorted(protocols - {SEARCHED})):
        raise UserError(
            f"--tune search needs --protocols {SEARCHED}, whose rows may differ in what is searched, got "
            f"{', '.join(others)}. To run both, leave --tune out: {SEARCHED} implies it."
        )
    if tune in ("grid", "paper") and SEARCHED in protocols:
        raise UserError(
            f"--tune {tune} does not fit protocol {SEARCHED}, which searches every row alike; leave out one "
            "of the two."
        )
    searches = SEARCHED in protocols and tune != "none"
    if trials is not None and not protocols:
        raise UserError("--trials: a control tries all settings of its own; name a method that trains, too.")
    if trials is not None and not searches:
        raise UserError(f"--trials is the number of trials of a search; give --protocols {SEARCHED} with it.")
    if trials is not None and trials < 1:
        raise UserError(f"--trials must be 1 or more, got {trials}.")
    if searches:
        check_optuna()


def by_configuration(runs: Iterable[ResolvedRun]) -> list[list[ResolvedRun]]:
    """Runs that differ only in their seeds, together."""
    groups: dict[ResolvedRun, list[ResolvedRun]] = {}
    for run in runs:
        groups.setdefault(run.with_seed(0), []).append(run)
    return list(groups.values())


def _further(seeds: Sequence[ResolvedRun]) -> tuple[int, ...]:
    return tuple(run.spec.seed for run in seeds[1:])


def _add_given(plan: GridPlan, seeds: Sequence[ResolvedRun]) -> None:
    """Note that values which the user gave are not tuned, though other rows of the table are."""
    tunable = {dimension.name for dimension in space_of(seeds[0], {})}
    chosen = [pair for pair in seeds[0].spec.overrides if pair.partition("=")[0] in tunable]
    plan.origins |= dict.fromkeys(seeds, Tuning(mode="given", chosen=chosen))


def _add_search(plan: GridPlan, seeds: Sequence[ResolvedRun], budget: int) -> None:
    """The search of one row in the shared space, with the trials that depend on no result."""
    run = seeds[0]
    fixed = _fixed(plan, run, (dimension.name for dimension in space_of(run, {})))
    space = space_of(run, fixed)
    if not space:
        raise UserError(
            f"--set fixes everything that a search of {configuration_name(run)} would set; leave one of "
            "them out, or give --tune none."
        )
    trials = first_trials(run, space, budget)
    search = Search(run, {}, fixed, (), _further(seeds), space, budget)
    plan.searches.append(search.with_trials(trials))


def _add_grid(plan: GridPlan, seeds: Sequence[ResolvedRun]) -> None:
    """The search of one method's grid."""
    run = seeds[0]
    fixed = _fixed(plan, run, run.cls.grid)
    free = {key: tuple(values) for key, values in run.cls.grid.items() if key not in fixed}
    if free:
        plan.searches.append(Search(run, free, fixed, _grid_trials(plan, run, free), _further(seeds)))
    else:
        plan.runs += seeds


def _add_published(plan: GridPlan, seeds: Sequence[ResolvedRun]) -> None:
    """One method with its published best values."""
    source, values = _published(seeds[0])
    fixed = _fixed(plan, seeds[0], values)
    taken = {key: value for key, value in values.items() if key not in fixed}
    if taken:
        tuned = with_values(seeds[0], taken)
        seeds = [tuned.with_seed(run.spec.seed) for run in seeds]
        tuning = Tuning(mode="paper", chosen=list(pairs(taken)), fixed=fixed, source=source)
        plan.origins |= dict.fromkeys(seeds, tuning)
    plan.runs += seeds


def _fixed(plan: GridPlan, run: ResolvedRun, keys: Iterable[str]) -> dict[str, str]:
    """Those of `keys` that tuning leaves alone -> why; each becomes a note of the plan."""
    given = {pair.partition("=")[0] for pair in run.spec.overrides}
    shared, fixed = held(run.spec.protocol), dict[str, str]()
    for key in keys:
        if key in given:
            fixed[key] = "--set fixes it"
        elif key in shared:
            fixed[key] = f"protocol {run.spec.protocol} holds it the same for all methods"
    plan.notes += [f"{run.spec.method}: {key} is not tuned: {why}" for key, why in fixed.items()]
    return fixed


def _grid_trials(
    plan: GridPlan, run: ResolvedRun, grid: Mapping[str, Sequence[Any]]
) -> tuple[ResolvedRun, ...]:
    """Every combination that this language model and dataset allow; the others become notes of the plan."""
    trials, errors = [], []
    for values in product(*grid.values()):
        combination = dict(zip(grid, values, strict=True))
        try:
            trials.append(with_values(run, combination))
        except UserError as error:
            errors.append(error)
            name = f"{configuration_name(run)}: {', '.join(pairs(combination))}"
            plan.notes.append(f"{name} is left out: {error}")
    if not trials:
        raise errors[0]
    return tuple(trials)


def _published(run: ResolvedRun) -> tuple[str, Mapping[str, Any]]:
    """The paper's language model and dataset that `run` has, and the method's best values there."""
    table = best_values(run.spec.method) or run.method.paper  # of another package, what its class declares
    llms, datasets = (list(dict.fromkeys(key[part] for key in table)) for part in (0, 1))
    llm = run.llm.name if run.llm else NO_LLM
    given, name = run.spec.dataset, run.prepared.name
    dataset = given if given in datasets else dataset_of(run.prepared.fingerprint)
    if (llm, dataset) in table:
        return f"{llm}/{dataset}", table[llm, str(dataset)]
    place = f"language model '{llm}' and dataset '{name}'"
    place += f" (the paper's {dataset})" if dataset and dataset != name else ""
    known = f"there are some for {', '.join(llms)} on {', '.join(datasets)}" if table else "there are none"
    raise UserError(
        f"--tune paper: no published values of method '{run.spec.method}' for {place}; {known}. "
        "Use --tune grid."
    )
