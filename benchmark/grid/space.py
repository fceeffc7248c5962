"""Draw the trials of a search in the shared space: the protocol's own values, random ones, then TPE (Optuna).

Trial k depends on the seed and on the results of the trials before it alone. A search that was interrupted
goes on from the trials that are recorded (`search.Search.continued`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from benchmark.config import SPACE, Dimension, digest
from benchmark.run.spec import ResolvedRun, resolve_run
from methods.errors import UserError

STARTUP = 6
"""Trials that depend on no result: the protocol's own values, and random ones. They may run side by side."""
ATTEMPTS = 50
"""Draws for one trial until one is neither a repetition nor a configuration that cannot be."""
Results = Sequence[tuple[ResolvedRun, float | None]]
"""Trials and what they reached by validation; None for a trial that did not end well."""


def space_of(run: ResolvedRun, fixed: Mapping[str, str]) -> tuple[Dimension, ...]:
    """What a search of `run` sets: `SPACE` and the grid of its method, without what is `fixed`."""
    own = {field.name for config in (run.settings, run.config) for field in fields(config)}
    named = {dimension.name for dimension in SPACE}
    grid = [Dimension(name, values=tuple(values)) for name, values in run.cls.grid.items()]
    dimensions = (*SPACE, *(dimension for dimension in grid if dimension.name not in named))
    return tuple(dimension for dimension in dimensions if dimension.name in own - fixed.keys())


def describe(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """The space for a record: a dictionary a dimension, without what it leaves at its default."""
    stated = [
        {name: value for name, value in asdict(dimension).items() if value != getattr(Dimension, name, None)}
        for dimension in space
    ]
    described: list[dict[str, Any]] = json.loads(json.dumps(stated))  # as a record gives it back
    return described


def check_optuna() -> None:
    """Raise `UserError` where Optuna is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "--tune search needs Optuna, which is not installed; `pip install 'adaptrec[search]'` does it."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def first_trials(untuned: ResolvedRun, space: Sequence[Dimension], budget: int) -> tuple[ResolvedRun, ...]:
    """The trials that depend on no result, `budget` at most: the first has the values of `untuned`."""
    own = {dimension.name: value_of(untuned, dimension.name) for dimension in space}
    trials = [with_values(untuned, own)]
    while len(trials) < min(STARTUP, budget):
        trial = _draw(untuned, space, [(trial, None) for trial in trials])
        if trial is None:
            break
        trials.append(trial)
    return tuple(trials)


def next_trial(untuned: ResolvedRun, space: Sequence[Dimension], results: Results) -> ResolvedRun | None:
    """The trial after those of `results`; None where the space has no further configuration."""
    return _draw(untuned, space, results)


def _draw(untuned: ResolvedRun, space: Sequence[Dimension], results: Results) -> ResolvedRun | None:
    tried = {trial.config_hash for trial, _ in results}
    for attempt in range(ATTEMPTS):
        # rows with the same space are offered the same random values
        seed = int(digest([untuned.spec.seed, len(results), attempt], 8), 16)
        values = suggest(untuned, space, results, seed)
        try:
            trial = with_values(untuned, values)
        except UserError:  # such as layers that the language model does not have
            continue
        if trial.config_hash not in tried:
            return trial
    return None


def suggest(untuned: ResolvedRun, space: Sequence[Dimension], results: Results, seed: int) -> dict[str, Any]:
    """Values for one trial: random ones until `STARTUP` of `results` have a value, then those of TPE."""
    import optuna

    sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, multivariate=False, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial, reached in results:
        if reached is not None:
            parameters, distributions = _as_optuna(trial, space)
            study.add_trial(
                optuna.trial.create_trial(params=parameters, distributions=distributions, value=reached)
            )
    asked, values = study.ask(), dict[str, Any]()
    for dimension in space:
        if not _applies(dimension, values, untuned):
            continue
        name = _parameter(dimension)
        if dimension.values:
            values[dimension.name] = _choice(asked, name, dimension)
        elif dimension.or_zero and asked.suggest_categorical(_zero(dimension), (True, False)):
            values[dimension.name] = 0.0
        else:
            drawn = asked.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
            rounded = float(f"{drawn:.3g}")  # as it is written in an override
            values[dimension.name] = min(max(rounded, dimension.low), dimension.high)
    return values


def _as_optuna(trial: ResolvedRun, space: Sequence[Dimension]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a trial, as Optuna names them, and their distributions.

    A value outside the space, as the protocol's own may be, is left out: Optuna refuses it.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    parameters, distributions = dict[str, Any](), dict[str, Any]()
    for dimension in space:
        if not _applies(dimension, {}, trial):
            continue
        name, value = _parameter(dimension), value_of(trial, dimension.name)
        if dimension.values:
            if value in dimension.values:
                parameters[name] = dimension.values.index(value)
                distributions[name] = CategoricalDistribution(tuple(range(len(dimension.values))))
            continue
        if dimension.or_zero:
            parameters[_zero(dimension)] = value == 0
            distributions[_zero(dimension)] = CategoricalDistribution((True, False))
        if dimension.low <= value <= dimension.high:
            parameters[name] = value
            distributions[name] = FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return parameters, distributions


def _choice(asked: Any, name: str, dimension: Dimension) -> Any:
    # by index: Optuna takes only plain values as choices
    return dimension.values[asked.suggest_categorical(name, tuple(range(len(dimension.values))))]


def _applies(dimension: Dimension, values: Mapping[str, Any], run: ResolvedRun) -> bool:
    """Whether the condition of a dimension holds, by `values`, or where they lack the setting, by `run`."""
    if dimension.when is None:
        return True
    name, needed = dimension.when
    return bool(values.get(name, value_of(run, name)) == needed)


def _parameter(dimension: Dimension) -> str:
    """Optuna's name of a dimension, unique in the space."""
    return dimension.name if dimension.when is None else f"{dimension.name} if {'='.join(dimension.when)}"


def _zero(dimension: Dimension) -> str:
    return f"{dimension.name} is 0"


def value_of(run: ResolvedRun, name: str) -> Any:
    """A setting or hyper-parameter of a run."""
    return getattr(run.config, name, getattr(run.settings, name, None))


def with_values(run: ResolvedRun, values: Mapping[str, Any]) -> ResolvedRun:
    """The run with further settings and hyper-parameters, which become `--set` of its specification.

    Raises `UserError` for a value that cannot be, and for one that reads as another one in `--set`.
    """
    chosen = resolve_run(replace(run.spec, overrides=(*run.spec.overrides, *pairs(values))))
    for key, value in values.items():
        if (parsed := value_of(chosen, key)) != value:
            raise UserError(
                f"method '{run.spec.method}': {key}={value!r} reads as {parsed!r} in --set; mend the "
                "method's grid."
            )
    return chosen


def pairs(values: Mapping[str, Any]) -> tuple[str, ...]:
    """`key=value` as `--set` takes them."""
    return tuple(
        f"{key}={json.dumps(value) if isinstance(value, dict | list | tuple) else value}"
        for key, value in values.items()
    )
