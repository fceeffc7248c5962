"""Searches among run records: which count, what they chose, and which runs are only their trials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmark.results.record import RunRecord, Tuning

NOT_TUNED = Tuning(mode="given", chosen=[])
"""Of a run under protocol `tuned` whose record does not say how its values were chosen."""


@dataclass(frozen=True)
class Searches:
    """What the records of a report say of tuning."""

    chosen: dict[str, Tuning]
    """`config_hash` -> how that configuration was chosen."""

    @property
    def lost(self) -> set[str]:
        """`config_hash` of the trials that no search chose.

        Their test figures stand in no table, where they would invite choosing by them. The configuration
        that nobody tuned, which a grid may hold too, is not chosen by anything and stays.
        """
        tried = {trial.config_hash for search in self.chosen.values() for trial in search.trials}
        return tried - self.chosen.keys() - {search.untuned for search in self.chosen.values()}

    def keys(self, config_hash: str) -> set[str]:
        """Settings whose values a label leaves to the search, or to its being untuned, to tell."""
        own = self.chosen.get(config_hash)
        names = {*own.grid, *(pair.partition("=")[0] for pair in own.chosen)} if own else set()
        for search in self.chosen.values():
            names |= search.grid.keys() if search.untuned == config_hash else set()
        return names


def searches(runs: Iterable[RunRecord]) -> Searches:
    """The searches that count: where one tried all that another tried, only the one that came further."""
    by_config: dict[str, Tuning] = {}
    for run in runs:
        known = by_config.get(run.config_hash)
        if run.tuning and (known is None or _progress(run.tuning) > _progress(known)):
            by_config[run.config_hash] = run.tuning
    grown = {
        config
        for config, search in by_config.items()
        if search.trials and any(covers(other, search) for other in by_config.values())
    }
    return Searches({config: search for config, search in by_config.items() if config not in grown})


def covers(search: Tuning, other: Tuning) -> bool:
    """Whether `search` tried all that `other` tried, and more or with more success."""
    tried, known = ({(part.seed, trial.config_hash) for trial in part.trials} for part in (other, search))
    return tried <= known and _progress(other) < _progress(search)


def _progress(search: Tuning) -> tuple[int, int]:
    """The number of trials, and of those that ended well."""
    return len(search.trials), sum(trial.status == "ok" for trial in search.trials)


def label_of(search: Tuning | None, dataset: str) -> str:
    """What a label says of how a configuration of `dataset` was chosen; empty where nothing chose it."""
    if search is None:
        return ""
    if search.mode == "given":
        if search.source == dataset:
            return "values of another search here"
        return f"transferred from {search.source}, not tuned here" if search.source else "not tuned here"
    if not search.chosen:
        return f"tuned: all {len(search.trials)} trials lost"
    if search.mode == "search":
        count, ended = _progress(search)
        budget = max(count, search.budget or 0)
        return f"tuned, best of {ended}" + (f" of {budget} trials" if ended < budget else "")
    return f"{'tuned' if search.mode == 'grid' else 'published'}: {', '.join(search.chosen)}"
