"""Score a control, or its mixture with a trained row, and fill the record.

Validation chooses the settings of the control and its weight in the mixture; then test targets are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from benchmark.config import digest, parse
from benchmark.measure import MemoryGauge, Stopwatch
from benchmark.model.parallel import log_main
from benchmark.results.list_metrics import TOP
from benchmark.results.metrics import measure
from benchmark.results.record import Fusion, RunRecord, WeightTrial
from benchmark.results.schema import Metrics
from benchmark.results.targets import StoredLists
from benchmark.results.tuning import Trial, Tuning
from benchmark.run.build import splits
from benchmark.run.describe import add_quality, user_lists
from benchmark.run.inputs import pooled_states
from benchmark.run.spec import ResolvedRun
from benchmark.train.control_ranks import FusedModel, ScoredSplit, rank_users, training_data
from benchmark.train.evaluate import UserRanks
from benchmark.train.loop import Trainer
from methods.controls.base import Control

CPU = torch.device("cpu")
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Weights of a control in a mixture, among which validation chooses."""


def score_control(
    resolved: ResolvedRun, record: RunRecord, device: torch.device
) -> tuple[UserRanks, StoredLists]:
    """Ranks and lists of the test targets under the settings that validation chooses; fills `record`.

    Scores are computed on the CPU; `device` computes hidden states that the cache lacks. Every process of
    several does the same work. Raises `ControlError` for scores of another shape, or that are not finite.
    """
    memory = MemoryGauge(CPU)
    prepared = resolved.prepared
    items, start = prepared.items.astype(np.int64), prepared.offsets[:-1].astype(np.int64)
    valid, test = (ScoredSplit(items, rows, start) for rows in splits(resolved))
    try:
        with memory.phase("train"):
            control = _build(resolved, record, device)
        with memory.phase("eval"):
            trials, best, _ = _choose_settings(resolved, control, valid, device)
            ranks = rank_users(control, best.config, test, TOP)
    finally:
        record.cost.peak_memory = memory.over_processes()
    record.hyperparameters, record.trials = asdict(best.config), len(trials)
    record.tuning = _tuning(resolved, trials, best)
    record.cost.eval_seconds = float(np.median([trial.seconds for trial in trials]))
    add_quality(record, best.metrics, test.targets, prepared.trained, ranks)
    return ranks, user_lists(prepared, ranks)


def fuse(resolved: ResolvedRun, record: RunRecord, trainer: Trainer, trained: UserRanks) -> UserRanks:
    """Ranks of the test, and lists, under the mixture of the trained model with the control of the run.

    `trained` are those of the model alone, whose metrics `record` has; `trainer` holds the weights of the
    best epoch. Validation chooses the settings of the control, as for the control alone, and then its weight,
    by the metric that selects the epoch. Fills `record`. Raises `ControlError` as `score_control`.
    """
    own, task = resolved.fused, trainer.task
    assert own is not None
    valid, test = (ScoredSplit(task.sequences.items, x, task.history_start) for x in (task.valid, task.test))
    clock = Stopwatch(trainer.device)
    control = _build(own, record, trainer.device)
    with clock.phase("eval"):
        trials, best, alone = _choose_settings(own, control, valid, trainer.device)
        mixture = FusedModel(
            trainer.model, task.sequences, control, best.config, trainer.device, trainer.process
        )
        mixed = WEIGHTS[1:-1]
        ranks = dict(zip(mixed, trainer.retry.run(lambda: mixture.rank_users(valid, mixed)), strict=True))
        ranks[1.0] = alone
    selection = {0.0: trainer.progress.best_value}
    selection |= {weight: trainer.selection(ranks[weight]) for weight in WEIGHTS[1:]}
    weight = max(selection, key=lambda weight: selection[weight])  # of equal ones the least
    log_main(_choice(own, trainer, selection, weight))
    record.fusion = Fusion(
        control=own.spec.method,
        code=own.code,
        hyperparameters=asdict(best.config),
        tuning=_tuning(own, trials, best),
        weight=weight,
        weights=[WeightTrial(weight=tried, selection=value) for tried, value in selection.items()],
        trials=len(trials) + len(selection),
        trained=record.metrics,
        seconds=clock.seconds["eval"],
    )
    record.trials += record.fusion.trials
    if not weight:
        return trained
    if weight == 1:
        fused = rank_users(control, best.config, test, TOP)
    else:
        (fused,) = trainer.retry.run(lambda: mixture.rank_users(test, [weight], TOP))
    add_quality(record, ranks[weight].metrics("valid"), test.targets, task.sequences.trained, fused)
    return fused


def _choice(own: ResolvedRun, trainer: Trainer, selection: dict[float, float], weight: float) -> str:
    """A line for the terminal about the weight that validation chose."""
    settings = trainer.settings
    return (
        f"fuse={own.spec.method}: weight {weight:g}, validation {measure(settings.select_by).label} "
        f"({settings.select}) {selection[weight]:.4f}; trained model alone {selection[0]:.4f}, control alone "
        f"{selection[1]:.4f}"
    )


@dataclass(frozen=True)
class ValidatedTrial:
    """One configuration of a control and its figures on validation."""

    chosen: dict[str, Any]
    """What validation chooses of it: setting -> value."""
    config: Any
    metrics: dict[str, Metrics]
    """`valid` and `valid_masked`."""
    seconds: float
    cpu_seconds: float

    @property
    def recall(self) -> float:
        """What chooses: Recall@10 with the user's history masked."""
        return self.metrics["valid_masked"]["recall@10"]

    @property
    def overrides(self) -> list[str]:
        """As `--set` takes them."""
        return [f"{name}={value}" for name, value in self.chosen.items()]


def _build(resolved: ResolvedRun, record: RunRecord, device: torch.device) -> Control:
    """The control of a run, with what it may read; no target of validation or test is in it."""
    assert resolved.control is not None
    prepared = resolved.prepared
    states = None
    if resolved.llm is not None and resolved.cls.reads == "states":
        read = pooled_states(resolved, resolved.llm, device)
        states = (read.values.float() + read.mean).numpy()  # [I, A, D]
        if record.cost.prepare_seconds is None:  # in a mixture the trained model may read the same states
            record.cost.prepare_seconds = read.seconds
        if read.statistics is not None:
            record.llm_details |= vars(read.statistics)
    offsets, end = prepared.offsets.astype(np.int64), prepared.train_end.astype(np.int64)
    return resolved.control(training_data(prepared.items, offsets, end, len(prepared.texts), states))


def _choose_settings(
    resolved: ResolvedRun, control: Control, valid: ScoredSplit, device: torch.device
) -> tuple[list[ValidatedTrial], ValidatedTrial, UserRanks]:
    """All trials of a control, the best by validation, of equal ones the first, and its ranks."""
    trials: list[ValidatedTrial] = []
    best: tuple[ValidatedTrial, UserRanks] | None = None
    for chosen, config in _trials(resolved):
        trial, ranks = _validate(control, chosen, config, valid, device)
        trials.append(trial)
        if best is None or trial.recall > best[0].recall:  # the ranks of the others are not kept
            best = trial, ranks
    assert best is not None
    return trials, *best


def _trials(resolved: ResolvedRun) -> list[tuple[dict[str, Any], Any]]:
    """What validation chooses among: the distinct stated settings, without those that the user fixed, and
    the configuration that they make with these."""
    assert resolved.control is not None
    free = [
        {name: value for name, value in trial.items() if name not in resolved.fixed}
        for trial in resolved.control.trials()
    ]
    trials = [trial for number, trial in enumerate(free) if trial not in free[:number]]
    where = f"the trials of '{resolved.spec.method}'"
    return [(trial, parse(resolved.control.Config, {**trial, **resolved.fixed}, where)) for trial in trials]


def _validate(
    control: Control, chosen: dict[str, Any], config: Any, valid: ScoredSplit, device: torch.device
) -> tuple[ValidatedTrial, UserRanks]:
    """A configuration's figures and ranks. Processes agree on seconds by way of `device`."""
    clock = Stopwatch(device)
    with clock.phase("eval"):
        ranks = rank_users(control, config, valid)
    trial = ValidatedTrial(
        chosen, config, ranks.metrics("valid"), clock.seconds["eval"], clock.cpu_seconds["eval"]
    )
    settings = ", ".join(trial.overrides) or "no choice"
    log_main(f"{settings}: valid masked R@10 {trial.recall:.4f}, {trial.seconds:.2f} s")
    return trial, ranks


def _tuning(resolved: ResolvedRun, trials: Sequence[ValidatedTrial], best: ValidatedTrial) -> Tuning | None:
    """The trials, as those of a search; None where there was no choice."""
    if len(trials) == 1:
        return None
    stored = [
        Trial(
            overrides=trial.overrides,
            config_hash=digest([resolved.config_hash, asdict(trial.config)]),
            status="ok",
            recall=trial.recall,
            train_seconds=trial.seconds,
            train_cpu_seconds=trial.cpu_seconds,
        )
        for trial in trials
    ]
    names = {name: None for trial in trials for name in trial.chosen}
    values = {name: [trial.chosen[name] for trial in trials] for name in names}
    return Tuning(
        mode="grid",
        chosen=best.overrides,
        fixed=dict.fromkeys(resolved.fixed, "--set fixes it"),
        grid={name: list(dict.fromkeys(values[name])) for name in names},
        select="masked",
        seed=resolved.spec.seed,
        trials=stored,
        train_seconds=sum(trial.train_seconds for trial in stored),
        train_cpu_seconds=sum(trial.train_cpu_seconds for trial in stored),
    )
