"""What run records tell of searches: how their configurations were chosen, and the trials that they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from benchmark.results.record import RunRecord
from benchmark.results.tuning import Trial, Tuning, progress, with_trials


def tunings_of(runs: Iterable[RunRecord]) -> list[tuple[str, Tuning]]:
    """How configurations were chosen: `config_hash` and what records say of it.

    A search in a shared space has all trials that any record knows of it: its note lacks some where the bench
    was stopped.
    """
    runs = list(runs)
    noted = [(run.config_hash, run.tuning) for run in runs if run.tuning and run.tuning.mode != "search"]
    return [*noted, *_in_spaces(runs)]


def _in_spaces(runs: Iterable[RunRecord]) -> Iterator[tuple[str, Tuning]]:
    """Each search in a shared space, put together from all records: `config_hash` of the trial that it
    chooses, and the search; of one whose trials all failed, that of the first with a record."""
    parts: dict[str, list[tuple[RunRecord, Tuning]]] = {}
    for run in runs:
        for search in known_searches(run):
            parts.setdefault(_identity(run, search), []).append((run, search))
    for same in parts.values():
        found: dict[str, tuple[int, Trial]] = {}
        # a trial's own record counts more than a note, and a later note more than an early one
        for run, search in sorted(same, key=lambda part: (part[1] is not part[0].tuning, progress(part[1]))):
            found |= {trial.config_hash: (number, trial) for number, trial in known_trials(run, search)}
        trials = [trial for _, trial in sorted(found.values(), key=lambda part: part[0])]
        ended = [trial for trial in trials if trial.selection is not None]
        best = max(ended, key=lambda trial: trial.selection or 0.0, default=None)
        made = best or next((trial for trial in trials if trial.status != "missing"), None)
        if made:
            # a note of all trials has the budget that was spent, where the space had no more to try
            whole = [search for _, search in same if len(search.trials) == len(trials)]
            base = max(whole or (search for _, search in same), key=lambda search: search.budget or 0)
            yield made.config_hash, with_trials(base, trials, best.overrides if best else [])


def known_searches(run: RunRecord) -> list[Tuning]:
    """The searches in a shared space that a record knows: that which chose it, and that of which it is a
    trial."""
    noted = [run.tuning] if run.tuning and run.tuning.mode == "search" else []
    return noted + ([run.trial_of.search] if run.trial_of else [])


def known_trials(run: RunRecord, search: Tuning) -> list[tuple[int, Trial]]:
    """What a record knows of the trials of one of its `known_searches`, each with its number."""
    if search.trials or run.trial_of is None:
        return list(enumerate(search.trials, 1))
    given = {pair.partition("=")[0]: pair for pair in run.overrides}
    names = dict.fromkeys(str(dimension["name"]) for dimension in search.space)
    overrides = [given[name] for name in names if name in given]
    return [(run.trial_of.number, as_trial(run, overrides, in_space=True))]


def _identity(run: RunRecord, search: Tuning) -> str:
    """Equal for the records of one search: it has one seed, one space, and settings that it leaves alone."""
    searched = {dimension["name"] for dimension in search.space}
    alone = sorted(pair for pair in run.overrides if pair.partition("=")[0] not in searched)
    where = [run.dataset, run.data.get("key"), run.llm, run.method, run.protocol_hash]
    return json.dumps([*where, search.seed, search.space, alone])


def as_trial(run: RunRecord, overrides: list[str], in_space: bool) -> Trial:
    """A trial of a search from its record; `overrides` are what the search set."""
    return Trial(
        overrides=overrides,
        config_hash=run.config_hash,
        status=run.status,
        error=run.error,
        recall=validation(run),
        selection=selection(run) if in_space else None,
        best_epoch=run.best_epoch,
        epochs_run=run.epochs_run,
        train_seconds=sum(epoch.train_seconds for epoch in run.curve),
        train_cpu_seconds=sum(epoch.train_cpu_seconds for epoch in run.curve),
    )


def validation(record: RunRecord | None) -> float | None:
    """Validation Recall@10 of the run's own best epoch, masked or not as the run selected its epoch.

    None for a run that did not end well. All that a search of a grid knows of how good a trial is.
    """
    if record is None or record.status != "ok":
        return None
    split = "valid_masked" if record.settings.get("select") == "masked" else "valid"
    # of a mixture the trained row alone, which is what a search sets
    trained = record.fusion.trained if record.fusion else record.metrics
    return trained[split]["recall@10"]


def selection(record: RunRecord | None) -> float | None:
    """Validation metric that selects the epoch (`select_by`, `select`), at the run's best epoch.

    None for a run that did not end well. All that a search in the shared space knows of a trial.
    """
    if record is None or record.status != "ok":
        return None
    values = {epoch.epoch: epoch.selection for epoch in record.curve}
    return values[record.best_epoch or 0]
