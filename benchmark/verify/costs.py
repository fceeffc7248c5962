"""L2: dates and seconds can be, and what a run cost follows from its epochs, its trials and its mixture."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from benchmark.results.tuning import Tuning
from benchmark.verify.format import shown
from benchmark.verify.opened import BundledRun

ROUNDING = 1e-6
"""Share by which sums of seconds may differ."""
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
"""No record is older: there was no such harness."""
CLOCK = timedelta(days=1)
"""How far the clock of another machine may be ahead."""
OF_EPOCHS = ("epoch_seconds", "epoch_cpu_seconds", "first_epoch_seconds", "train_seconds", "seconds_to_best")
"""Costs that only a run with epochs has."""
MOST_SECONDS = 10 * 366 * 86_400
"""No run took longer than ten years."""
MOST = 2**50
"""Bytes, joules, parameters and whatever else is counted."""
MEASURED = ("generation", "epochs_run", "cost", "curve", "liveness", "tuning", "trial_of", "fusion")
"""Fields whose numbers were counted or measured, those of the environment apart."""
SHARES = {"ranks_moved", "encoded_again", "recall", "selection", "weight"}
FROM_ONE = {"threads", "world_size", "number", "budget", "epoch", "best_epoch"}
BOUNDED = {"valid", "valid_masked", "trained", "grid", "space", "fixed", "hyperparameters"}
"""Metrics, which the schema bounds, and values of settings."""


def times(run: BundledRun) -> None:
    """Its times are possible: every epoch took some, and its date lies between this project and now."""
    record = run.record
    try:
        created = datetime.fromisoformat(record.created)
    except ValueError as error:
        raise run.fail(f"it was created at {shown(record.created)}, which is no time.") from error
    if created.tzinfo is None:
        raise run.fail(f"it was created at {shown(record.created)}, without a time zone.")
    if created > datetime.now(UTC) + CLOCK:
        raise run.fail(f"it was created in the future, at {created:%Y-%m-%d}.")
    whole = 0.0
    for point in record.curve:
        if point.train_seconds <= 0:
            raise run.fail(f"epoch {point.epoch} took no time, or less than none.")
        whole += point.train_seconds + point.eval_seconds + point.save_seconds
    if created - timedelta(seconds=whole) < FIRST:
        raise run.fail(f"it began before {FIRST:%Y-%m-%d}, when there was no such harness.")


def bounds(run: BundledRun) -> None:
    """No second, byte, joule, count or share is below or above what can be."""
    include: Any = dict.fromkeys(MEASURED, True) | {"environment": {"threads", "world_size", "load_average"}}
    for path, value in _numbers(run.record.model_dump(mode="json", include=include)):
        name = path[-1]
        least = 1 if name in FROM_ONE else -MOST if name == "loss" else 0
        most = 1 if name in SHARES else MOST_SECONDS if name.endswith("seconds") else MOST
        if not least <= value <= most:
            raise run.fail(
                f"its {shown('.'.join(path))} is {value!r}; it is from {least:g} to {most:g} where it can be."
            )


def _numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Where numbers stand, and which, those apart that a schema or a method bounds."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in BOUNDED:
                yield from _numbers(inner, (*path, str(name)))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def costs(run: BundledRun) -> None:
    """Its seconds of training and of validation are those of its epochs, and of its trials."""
    record = run.record
    for name, expected in _of_trials(run) if record.untrained else _of_epochs(run):
        stated = getattr(record.cost, name)
        if stated is not None and not _agree(stated, expected):
            what = "trials" if record.untrained else "epochs"
            raise run.fail(f"its {name} are {stated:g}, and its {what} give {expected:g}.")
    if record.untrained and (given := [name for name in OF_EPOCHS if getattr(record.cost, name) is not None]):
        raise run.fail(f"it is of a control, which has no epochs, and has {given[0]}.")
    if record.tuning:
        _check_trials(run, record.tuning)
        _check_own_trial(run, record.tuning)
    if record.fusion and record.fusion.tuning:
        _check_trials(run, record.fusion.tuning)
        if record.fusion.seconds < record.fusion.tuning.train_seconds * (1 - ROUNDING):
            raise run.fail("its mixture took less time than the trials of its control, which are a part.")


def _of_epochs(run: BundledRun) -> Iterator[tuple[str, float]]:
    """Costs that follow from the curve: the medians leave out the first of several epochs."""
    curve = run.record.curve
    train = [point.train_seconds for point in curve]
    cpu = [point.train_cpu_seconds for point in curve]
    if curve:
        yield "train_seconds", sum(train)
        yield "seconds_to_best", sum(train[: run.record.best_epoch])
        yield "first_epoch_seconds", train[0]
        yield "epoch_seconds", median(train[1:] or train)
        yield "epoch_cpu_seconds", median(cpu[1:] or cpu)
        yield "eval_seconds", median(point.eval_seconds for point in curve)


def _of_trials(run: BundledRun) -> Iterator[tuple[str, float]]:
    """Costs of a control that follow from its trials, which a control without a choice does not list."""
    if run.record.tuning and run.record.tuning.trials:
        yield "eval_seconds", median(trial.train_seconds for trial in run.record.tuning.trials)


def _check_trials(run: BundledRun, tuning: Tuning) -> None:
    """A search took as long as its trials together."""
    for name in ("train_seconds", "train_cpu_seconds"):
        stated, summed = getattr(tuning, name), sum(getattr(trial, name) for trial in tuning.trials)
        if not _agree(stated, summed):
            raise run.fail(f"its search took {stated:g} {name}, and its trials {summed:g}.")


def _check_own_trial(run: BundledRun, tuning: Tuning) -> None:
    """The run is the chosen trial itself, where it has its seed."""
    record = run.record
    for trial in tuning.trials:
        if trial.config_hash != record.config_hash or tuning.seed != record.seed or trial.status != "ok":
            continue
        if (trial.epochs_run, trial.best_epoch) != (record.epochs_run, record.best_epoch):
            raise run.fail(
                f"it ran {record.epochs_run} epochs of which {record.best_epoch} was the best, and its own "
                f"trial {trial.epochs_run} and {trial.best_epoch}."
            )
        whole = sum(point.train_seconds for point in record.curve)
        if not _agree(trial.train_seconds, whole):
            raise run.fail(f"its own trial took {trial.train_seconds:g} seconds, and its epochs {whole:g}.")


def _agree(stated: float, expected: float) -> bool:
    return abs(stated - expected) <= ROUNDING * abs(expected)
