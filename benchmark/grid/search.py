"""The search of one row: its trials, those that follow from results, and those that records have already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.config import SEARCHED, Dimension
from benchmark.grid.space import Results, describe, next_trial
from benchmark.results.record import read_record
from benchmark.results.searches import known_searches, known_trials
from benchmark.results.tuning import TrialOf, Tuning
from benchmark.run.spec import ResolvedRun, resolve_run
from methods.errors import UserError


@dataclass(frozen=True)
class Search:
    """One method's search on one dataset, language model and protocol."""

    untuned: ResolvedRun
    """The run with the trials' seed and nothing that the search sets."""
    grid: Mapping[str, tuple[Any, ...]]
    """What is searched -> its values."""
    fixed: Mapping[str, str]
    """What the method's grid names and the search leaves alone -> why."""
    trials: tuple[ResolvedRun, ...]
    """In the order of the grid, its first key slowest; of a search in a space, those known so far."""
    seeds: tuple[int, ...] = ()
    """Further seeds of the configuration that is chosen."""
    space: tuple[Dimension, ...] = ()
    """What `--tune search` draws from, where that is the search."""
    budget: int = 0
    """How many trials that draws."""

    @property
    def described(self) -> Tuning:
        """The search for a record, without its trials and its choice."""
        untuned = self.untuned
        return Tuning(
            mode="search" if self.space else "grid",
            chosen=[],
            fixed=dict(self.fixed),
            grid={key: list(values) for key, values in self.grid.items()},
            space=describe(self.space),
            budget=self.budget or None,
            select_by=untuned.settings.select_by if self.space else "recall@10",
            select=untuned.settings.select,
            seed=untuned.spec.seed,
            untuned=None if untuned.spec.protocol == SEARCHED else untuned.config_hash,
        )

    @property
    def unknown_trials(self) -> int:
        """Trials that will follow from the results of the others."""
        return max(0, self.budget - len(self.trials))

    @property
    def later(self) -> int:
        """Runs that will follow: unknown trials, and the best one with the further seeds."""
        return self.unknown_trials + len(self.seeds)

    def advanced(self, results: Results) -> Search:
        """The search with the trial that follows from `results`, those of all its trials; where the space has
        none left, with a budget that is spent."""
        trial = next_trial(self.untuned, self.space, results)
        if trial is None:
            return replace(self, budget=len(self.trials))
        return self.with_trials([*self.trials, trial])

    def with_trials(self, trials: Sequence[ResolvedRun]) -> Search:
        """The search in a space with these trials, each of which states in its record that it is one."""
        search = self.described
        told = (
            replace(trial, spec=replace(trial.spec, trial_of=TrialOf(number=number, search=search)))
            for number, trial in enumerate(trials, 1)
        )
        return replace(self, trials=tuple(told))

    def continued(self, results: Path) -> Search:
        """The search with the trials that records below `results` have of it, in their order.

        Drawn anew they might be others: a trial that failed before may end well now.
        """
        known = {trial.config_hash: trial for trial in self.trials}
        for overrides, config_hash in self._recorded(results):
            with suppress(UserError):  # a value that this version does not allow
                spec = self.untuned.spec
                trial = resolve_run(replace(spec, overrides=(*spec.overrides, *overrides)))
                if trial.config_hash == config_hash:
                    known.setdefault(config_hash, trial)
        return self.with_trials([*known.values()])

    def _recorded(self, results: Path) -> list[tuple[list[str], str]]:
        """Values and `config_hash` of each trial that records know of a search like this one."""
        found: dict[tuple[int, str], list[str]] = {}
        like = self.described
        folder = self.untuned.record_path(results).parent
        for path in sorted(folder.glob(f"*-s{like.seed}.json")):
            with suppress(UserError):
                record = read_record(path)
                for search in known_searches(record):
                    if (search.seed, search.space) == (like.seed, like.space):
                        for number, trial in known_trials(record, search):
                            found[number, trial.config_hash] = trial.overrides
        return [(found[place], place[1]) for place in sorted(found)]

    def set_by(self, trial: ResolvedRun) -> list[str]:
        """What the search set in `trial`, as `key=value` pairs in the order of the grid."""
        return list(trial.spec.overrides[len(self.untuned.spec.overrides) :])

    def repeats(self, trial: ResolvedRun) -> list[ResolvedRun]:
        """The configuration of `trial` with the further seeds."""
        return [trial.with_seed(seed) for seed in self.seeds]

    def __str__(self) -> str:
        """What follows from the trials known so far."""
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        best = f"the best of {max(self.budget, len(self.trials))} with {seeds}" if self.seeds else ""
        more = f"{self.unknown_trials} more trials" if self.unknown_trials else ""
        return f"{configuration_name(self.untuned)}: {', then '.join(filter(None, (more, best)))}"


def configuration_name(run: ResolvedRun) -> str:
    """A run without its seed and overrides."""
    spec = run.spec
    return f"{spec.dataset} {spec.llm} {spec.method} {spec.protocol}"
