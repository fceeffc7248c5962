"""Searches among run records: which count, what they chose, and which runs are only their trials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmark.results.record import RunRecord, Tuning


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
    """The searches that count: where one tried all that another tried and more, only the larger one."""
    by_config: dict[str, Tuning] = {}
    for run in runs:
        known = by_config.get(run.config_hash)
        if run.tuning and (known is None or len(run.tuning.trials) > len(known.trials)):
            by_config[run.config_hash] = run.tuning
    tried = {
        config: {(search.seed, trial.config_hash) for trial in search.trials}
        for config, search in by_config.items()
    }
    grown = {
        config
        for config, search in by_config.items()
        if search.mode != "paper" and any(tried[config] < other for other in tried.values())
    }
    return Searches({config: search for config, search in by_config.items() if config not in grown})


def label_of(search: Tuning | None) -> str:
    """What a label says of how a configuration was chosen; empty where it was not."""
    if search is None:
        return ""
    if not search.chosen:
        return f"tuned: all {len(search.trials)} trials lost"
    if search.mode == "search":
        return f"tuned, best of {len(search.trials)}"
    return f"{'tuned' if search.mode == 'grid' else 'published'}: {', '.join(search.chosen)}"
