"""How hyper-parameters were chosen: what a record says of it, and which searches among records count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, model_validator

from benchmark.results.schema import Part, Shaped, fault

Number = Annotated[float, Field(strict=True)]


class Searched(Part):
    """A setting or hyper-parameter of a space, as `grid.space.describe` writes a `config.Dimension`."""

    name: Annotated[str, Field(min_length=1)]
    low: Number = 0.0
    high: Number = 0.0
    log: StrictBool = False
    or_zero: StrictBool = False
    values: list[StrictBool | int | float | str | None] = Field(default_factory=list)
    when: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if not self.values and not self.low < self.high:
            raise fault(f"{self.name!r} has neither values nor a range")
        return self


class Trial(Part):
    """One configuration that a search tried, with the search's seed."""

    overrides: list[str]
    """What the search set, as `key=value` pairs in the order of the grid."""
    config_hash: str
    status: Literal["ok", "failed", "oom", "killed", "interrupted", "missing"]
    """That of the trial's record; `missing` where it left none. A trial that is not ok loses."""
    error: str | None = None
    """One line where status is not ok."""
    recall: float | None = None
    """Validation Recall@10 of the trial's own best epoch, history masked as `Tuning.select` says; null unless
    status is ok."""
    selection: float | None = None
    """Of a trial of mode `search`: the validation metric that selects the epoch, `Tuning.select_by`, at its
    best epoch, by which the search chooses; null unless status is ok."""
    best_epoch: int | None = None
    epochs_run: int = 0
    train_seconds: float = 0.0
    """Training seconds of all its epochs, as far as it came; of a control, seconds of scoring validation."""
    train_cpu_seconds: float = 0.0
    """The same in CPU seconds, over all threads and processes."""


class Tuning(Part):
    """Where hyper-parameters come from, if not from the protocol and the user alone."""

    mode: Literal["grid", "search", "paper", "given"]
    """`grid`: the best of all combinations by validation; `search`: the best of `budget` trials in `space` by
    validation; `paper`: the published best values; `given`: values of the command line, which were not tuned
    here, under the protocol whose other rows are (`tuned`)."""
    chosen: list[str]
    """The values taken, as `key=value` pairs; empty where every trial was lost."""
    fixed: dict[str, str] = Field(default_factory=dict)
    """What was not searched, or not taken from the paper, though the method names it -> why."""
    source: str | None = None
    """Of published values: `<language model>/<dataset>` of the paper. Of given ones: those of the search that
    chose the same values, where its record is in the same store."""
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """What was searched -> its values."""
    space: list[Annotated[dict[str, Any], Shaped(Searched)]] = Field(default_factory=list)
    """Of mode `search`: what was searched and from what values it was drawn (`config.Dimension`)."""
    budget: int | None = None
    """Of mode `search`: trials that it was allowed. One that has fewer `trials` was not finished."""
    select_by: str = "recall@10"
    """The validation metric that chose."""
    select: Literal["raw", "masked"] = "raw"
    """Whether the validation metric that chose has the user's history masked."""
    seed: int | None = None
    """Seed of the trials; null where there are none."""
    untuned: str | None = None
    """`config_hash` of the configuration without anything that the search sets; null under protocol `tuned`,
    where that is a trial like the others."""
    trials: list[Trial] = Field(default_factory=list)
    """All that was tried, in the order of the grid or of the search; of equal ones the first is chosen."""
    train_seconds: float = 0.0
    """Training seconds of all trials, the chosen one included; evaluation and preparation are not."""
    train_cpu_seconds: float = 0.0
    """The same in CPU seconds."""

    @property
    def best(self) -> Trial | None:
        """The trial whose values were taken; None where there is none."""
        return next((trial for trial in self.trials if self.chosen and trial.overrides == self.chosen), None)


class TrialOf(Part):
    """The search in a shared space for which a bench began a run."""

    number: int
    """Of the trial, from 1."""
    search: Tuning
    """What it searched, without its trials and its choice."""


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


def searches(tunings: Iterable[tuple[str, Tuning | None]]) -> Searches:
    """The searches that count among (`config_hash`, tuning) of runs: where one tried all that another tried,
    only the one that came further."""
    by_config: dict[str, Tuning] = {}
    for config, tuning in tunings:
        known = by_config.get(config)
        if tuning and (known is None or progress(tuning) > progress(known)):
            by_config[config] = tuning
    grown = {
        config
        for config, search in by_config.items()
        if search.trials and any(covers(other, search) for other in by_config.values())
    }
    return Searches({config: search for config, search in by_config.items() if config not in grown})


def covers(search: Tuning, other: Tuning) -> bool:
    """Whether `search` tried all that `other` tried, and more or with more success."""
    tried, known = ({(part.seed, trial.config_hash) for trial in part.trials} for part in (other, search))
    return tried <= known and progress(other) < progress(search)


def progress(search: Tuning) -> tuple[int, int]:
    """The number of trials, and of those that ended well."""
    return len(search.trials), sum(trial.status == "ok" for trial in search.trials)


def with_trials(search: Tuning, trials: list[Trial], chosen: list[str]) -> Tuning:
    """A search with what it tried and the values that it chose."""
    seconds = {
        "train_seconds": sum(trial.train_seconds for trial in trials),
        "train_cpu_seconds": sum(trial.train_cpu_seconds for trial in trials),
    }
    return search.model_copy(update={"trials": trials, "chosen": chosen, **seconds})


def label_of(search: Tuning | None, dataset: str) -> str:
    """What a label says of how a configuration of `dataset` was chosen; empty where nothing chose it."""
    if search is None:
        return ""
    if search.mode == "given":
        if search.source == dataset:
            return "values of another search here"
        return f"transferred from {search.source}, not tuned here" if search.source else "not tuned here"
    count, ended = progress(search)
    budget = max(count, search.budget or 0)
    if not search.chosen:
        return f"tuned: {'all ' if budget == count else f'{count} of '}{budget} trials lost"
    if search.mode == "search":
        return f"tuned, best of {ended}" + (f" of {budget} trials" if ended < budget else "")
    return f"{'tuned' if search.mode == 'grid' else 'published'}: {', '.join(search.chosen)}"
