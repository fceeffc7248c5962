"""What a search makes of its trials: the choice, by validation alone, and what records say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmark.grid.plan import Published, Search
from benchmark.results.record import RunRecord, Trial, Tuning
from benchmark.results.store import usable
from benchmark.run.spec import RunSpec, resolve_run

MISSING = "its process ended without a record"


def validation(record: RunRecord | None) -> float | None:
    """Validation Recall@10 of the run's own best epoch, masked or not as the run selected its epoch.

    None for a run that did not end well. All that a search knows of how good a trial is.
    """
    if record is None or record.status != "ok":
        return None
    split = "valid_masked" if record.settings.get("select") == "masked" else "valid"
    return record.metrics[split]["recall@10"]


def choose(search: Search, found: Mapping[RunSpec, RunRecord]) -> RunSpec | None:
    """The best trial by `validation`, of equal ones the first in the grid; None where all were lost."""
    known = {trial: value for trial in search.trials if (value := validation(found.get(trial))) is not None}
    return max(known, key=lambda trial: known[trial], default=None)


def searched(search: Search, found: Mapping[RunSpec, RunRecord], chosen: RunSpec | None) -> Tuning:
    """What the records of the configuration `chosen` say of the search."""
    untuned = resolve_run(search.untuned)
    trials = [_trial(search, cell, found.get(cell)) for cell in search.trials]
    return Tuning(
        mode="grid",
        chosen=search.set_by(chosen) if chosen else [],
        fixed=dict(search.fixed),
        grid={key: list(values) for key, values in search.grid.items()},
        select=untuned.settings.select,
        seed=search.untuned.seed,
        untuned=untuned.config_hash,
        trials=trials,
        train_seconds=sum(trial.train_seconds for trial in trials),
        train_cpu_seconds=sum(trial.train_cpu_seconds for trial in trials),
    )


def taken_from_paper(published: Published) -> Tuning:
    """What the record of a cell with published values says of them."""
    return Tuning(
        mode="paper",
        chosen=list(published.values),
        fixed=dict(published.fixed),
        source=published.source,
    )


def _trial(search: Search, cell: RunSpec, record: RunRecord | None) -> Trial:
    curve = record.curve if record else []
    return Trial(
        overrides=search.set_by(cell),
        config_hash=resolve_run(cell).config_hash,
        status=record.status if record else "missing",
        error=record.error if record else MISSING,
        recall=validation(record),
        best_epoch=record.best_epoch if record else None,
        epochs_run=record.epochs_run if record else 0,
        train_seconds=sum(epoch.train_seconds for epoch in curve),
        train_cpu_seconds=sum(epoch.train_cpu_seconds for epoch in curve),
    )


def note(tuning: Tuning, cells: Iterable[RunSpec], results: Path) -> dict[RunSpec, RunRecord]:
    """Write `tuning` into the records of `cells` that stand in `results`, and nothing else.

    A record keeps what it says of a search that tried all of these trials and more: the larger number of
    trials is the true one. Published values, which anybody may look up, never replace a search.
    """
    tuning = Tuning.model_validate(tuning.model_dump())  # every field set
    noted = {}
    for cell in cells:
        path = resolve_run(cell).record_path(results)
        record = usable(path)
        if record is None:
            continue
        if record.tuning != tuning and not _outweighs(record.tuning, tuning):
            trials = len(tuning.trials) or 1
            record = record.model_copy(update={"tuning": tuning, "trials": trials})
            # a record of an older version gains no other field
            record.write(path, exclude_unset=True)
        noted[cell] = record
    return noted


def _outweighs(old: Tuning | None, new: Tuning) -> bool:
    if old is None or old.mode == "paper":
        return False
    if new.mode == "paper":
        return True
    tried, now = ({trial.config_hash for trial in tuning.trials} for tuning in (old, new))
    return old.seed == new.seed and tried > now
