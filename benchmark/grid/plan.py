"""From lists of names to a plan: the cells of a grid, what tuning searches, and what follows from what.

Every name and value is checked before the first cell starts. A plan is data: executors run its stages, a dry
run prints them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from benchmark.config import TUNE, Tune, accepted, applicable, held
from benchmark.data.catalogue import find
from benchmark.data.recipe import NO_OPTIONS, FolderOptions
from benchmark.results.published import dataset_of
from benchmark.results.record import NO_LLM
from benchmark.run.spec import ResolvedRun, RunSpec, check_protocol, find_llm, resolve_run
from methods import registry
from methods.errors import UserError, unknown


@dataclass(frozen=True)
class Search:
    """One method's search on one dataset, language model and protocol."""

    untuned: RunSpec
    """The cell with the trials' seed and nothing that the search sets."""
    grid: Mapping[str, tuple[Any, ...]]
    """What is searched -> its values."""
    fixed: Mapping[str, str]
    """What the method's grid names and the search leaves alone -> why."""
    trials: tuple[RunSpec, ...]
    """In the order of the grid, its first key slowest."""
    seeds: tuple[int, ...] = ()
    """Further seeds of the configuration that is chosen."""

    def set_by(self, trial: RunSpec) -> list[str]:
        """What the search set in `trial`, as `key=value` pairs in the order of the grid."""
        return list(trial.overrides[len(self.untuned.overrides) :])

    def repeats(self, trial: RunSpec) -> list[RunSpec]:
        """The configuration of `trial` with the further seeds."""
        return [replace(trial, seed=seed) for seed in self.seeds]

    def __str__(self) -> str:
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        return f"{where(self.untuned)}: the best of {len(self.trials)} with {seeds}"


@dataclass(frozen=True)
class Published:
    """A cell that takes values from the paper."""

    cell: RunSpec
    values: tuple[str, ...]
    """`key=value` pairs, which end the overrides of `cell`."""
    fixed: Mapping[str, str]
    """What the paper has values of and the cell does not take -> why."""
    source: str
    """`<language model>/<dataset>` of the paper."""


@dataclass(frozen=True)
class Stage:
    """What may run side by side."""

    cells: tuple[RunSpec, ...] = ()
    searches: tuple[Search, ...] = ()
    """Searches whose best trial this stage runs with `Search.seeds`: as many cells, not known before."""

    def __len__(self) -> int:
        return len(self.cells) + sum(len(search.seeds) for search in self.searches)


@dataclass(frozen=True)
class Plan:
    """All that a bench will run."""

    cells: tuple[RunSpec, ...]
    """What runs as it is: no search decides on it."""
    searches: tuple[Search, ...] = ()
    published: tuple[Published, ...] = ()
    """Those of `cells` with values from the paper."""
    notes: tuple[str, ...] = ()
    """What tuning leaves as it is, and why; a line each."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One after another: trials and what needs none, then what the searches chose."""
        first = Stage((*self.cells, *(trial for search in self.searches for trial in search.trials)))
        then = Stage(searches=tuple(search for search in self.searches if search.seeds))
        return (first, then) if len(then) else (first,)


def expand(
    datasets: Sequence[str],
    llms: Sequence[str],
    methods: Sequence[str] | None,
    protocols: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    reading: FolderOptions = NO_OPTIONS,
) -> list[RunSpec]:
    """All cells, in the order dataset, language model, protocol, method, seed.

    A method that reads no language model has one cell, with NO_LLM, not one a language model. An override
    goes to the methods that have such a hyper-parameter; one that no method has raises `UserError`, as does
    any name that does not exist.
    """
    names = list(methods) if methods else registry.default_names()
    classes = {name: registry.get(name) for name in names}
    for dataset in datasets:
        find(dataset, reading)
    for protocol in protocols:
        check_protocol(protocol)
    if any(cls.reads != "ids" for cls in classes.values()):
        for llm in llms:
            find_llm(llm)
    _check_keys(overrides, set().union(*(accepted(cls.Config) for cls in classes.values())))
    cells = {
        RunSpec(
            dataset, NO_LLM if classes[name].reads == "ids" else llm, name, protocol, seed,
            applicable(overrides, classes[name].Config), reading,
        ): None
        for dataset, llm, protocol, name, seed in product(datasets, llms, protocols, names, seeds)
    }  # fmt: skip
    return list(cells)


def _check_keys(overrides: Sequence[str], everything: set[str]) -> None:
    for pair in overrides:
        key, sign, _ = pair.partition("=")
        if not sign:
            raise UserError(f"--set wants key=value, got '{pair}'.")
        if key not in everything:
            raise unknown("setting in --set:", key, sorted(everything))


def make_plan(cells: Iterable[RunSpec], tune: Tune = "none") -> Plan:
    """The plan that runs `cells` under `tune`.

    Trials take the first seed of a configuration, what is chosen the others too. Where tuning says something
    of a setting, the user's overrides and what `config.held` names stay as they are. Raises `UserError`
    where the paper has no values for a method that it tuned, and where no trial can be run.
    """
    if tune not in TUNE:
        raise unknown("value of --tune:", tune, TUNE)
    if tune == "none":
        return Plan(tuple(cells))
    seeds: dict[RunSpec, list[RunSpec]] = {}
    for cell in cells:
        seeds.setdefault(replace(cell, seed=0), []).append(cell)
    making = _Making()
    for same in seeds.values():
        making.add(same, tune)
    return Plan(
        tuple(making.cells),
        tuple(making.searches),
        tuple(making.published),
        tuple(dict.fromkeys(making.notes)),
    )


@dataclass
class _Making:
    """The parts of a plan as they come together."""

    cells: list[RunSpec] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, same: Sequence[RunSpec], tune: Tune) -> None:
        """Plan one configuration, `same` being its cells, one a seed."""
        cell = same[0]
        grid = registry.get(cell.method).grid
        if not grid:
            self.notes.append(f"{cell.method} has nothing to tune and runs as it is")
            self.cells += same
        elif tune == "grid":
            fixed = self._fixed(cell, grid)
            free = {key: tuple(values) for key, values in grid.items() if key not in fixed}
            if free:
                seeds = tuple(other.seed for other in same[1:])
                self.searches.append(Search(cell, free, fixed, tuple(self._trials(cell, free)), seeds))
            else:
                self.cells += same
        else:
            source, values = _published(cell)
            fixed = self._fixed(cell, values)
            pairs = tuple(_pair(key, value) for key, value in values.items() if key not in fixed)
            for one in same:
                taken = replace(one, overrides=(*one.overrides, *pairs))
                self.cells.append(taken)
                if pairs:
                    self.published.append(Published(taken, pairs, fixed, source))

    def _fixed(self, cell: RunSpec, keys: Iterable[str]) -> dict[str, str]:
        """Those of `keys` that stay as they are -> why; said in a note."""
        given, alike = {pair.partition("=")[0] for pair in cell.overrides}, held(cell.protocol)
        fixed: dict[str, str] = {}
        for key in keys:
            if key in given:
                fixed[key] = "--set fixes it"
            elif key in alike:
                fixed[key] = f"protocol {cell.protocol} holds it the same for all methods"
        self.notes += [f"{cell.method}: {key} is not tuned: {why}" for key, why in fixed.items()]
        return fixed

    def _trials(self, cell: RunSpec, grid: Mapping[str, Sequence[Any]]) -> list[RunSpec]:
        """Every combination that this language model and dataset allow."""
        trials, faults = [], []
        for values in product(*grid.values()):
            pairs = tuple(_pair(*item) for item in zip(grid, values, strict=True))
            trial = replace(cell, overrides=(*cell.overrides, *pairs))
            try:
                _check_taken(resolve_run(trial), dict(zip(grid, values, strict=True)))
            except UserError as error:
                faults.append(error)
                self.notes.append(f"{where(cell)}: {', '.join(pairs)} is left out: {error}")
            else:
                trials.append(trial)
        if not trials:
            raise faults[0]
        return trials


def _pair(key: str, value: Any) -> str:
    """As `--set` takes it."""
    return f"{key}={json.dumps(value) if isinstance(value, dict | list | tuple) else value}"


def _check_taken(resolved: ResolvedRun, values: Mapping[str, Any]) -> None:
    """Raise unless the cell has exactly these `values`: text may read as another value than was meant."""
    for key, value in values.items():
        found = getattr(resolved.config, key, getattr(resolved.settings, key, None))
        if found != value:
            raise UserError(
                f"method '{resolved.spec.method}': {key}={value!r} of its grid reads as {found!r} in --set; "
                "mend the method's grid."
            )


def _published(cell: RunSpec) -> tuple[str, Mapping[str, Any]]:
    """The paper's language model and dataset that `cell` has, and the method's best values there."""
    resolved = resolve_run(cell)
    table = resolved.cls.paper
    llms, datasets = (list(dict.fromkeys(key[side] for key in table)) for side in (0, 1))
    llm = resolved.llm.name if resolved.llm else NO_LLM
    same = cell.dataset if cell.dataset in datasets else dataset_of(resolved.prepared.fingerprint)
    if (llm, same) in table:
        return f"{llm}/{same}", table[llm, str(same)]
    place = f"language model '{llm}' and dataset '{resolved.prepared.name}'"
    place += f" (the paper's {same})" if same and same != resolved.prepared.name else ""
    there = f"there are some for {', '.join(llms)} on {', '.join(datasets)}" if table else "there are none"
    raise UserError(
        f"--tune paper: no published values of method '{cell.method}' for {place}; {there}. Use --tune grid."
    )


def where(cell: RunSpec) -> str:
    """A cell without its seed and overrides."""
    return f"{cell.dataset} {cell.llm} {cell.method} {cell.protocol}"
