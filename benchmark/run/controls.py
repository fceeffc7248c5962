"""Score a control: choose its settings on validation, then rank the test targets, and fill its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmark.config import as_dict, digest, parse
from benchmark.measure import MemoryGauge, Stopwatch
from benchmark.model.parallel import log_main
from benchmark.results.list_metrics import TOP
from benchmark.results.lists import StoredLists
from benchmark.results.metrics import metrics_of
from benchmark.results.record import Metrics, RunRecord, Trial, Tuning
from benchmark.run.describe import add_quality, user_lists
from benchmark.run.inputs import pooled_states
from benchmark.run.spec import ResolvedRun
from benchmark.train.control_ranks import ScoredSplit, rank_users, training_data
from benchmark.train.evaluate import UserRanks
from benchmark.train.sequences import evaluation_rows
from methods.controls.base import Control, TrainingData
from methods.errors import UserError

CPU = torch.device("cpu")


def score_control(
    resolved: ResolvedRun, record: RunRecord, device: torch.device
) -> tuple[UserRanks, StoredLists]:
    """Ranks of the test and lists of its users under the settings that validation chooses; fills `record`.

    Scores are computed on the CPU; `device` computes hidden states that the cache lacks. Every process of
    several does the same work. Raises `ControlError` for scores of another shape, or that are not finite.
    """
    assert resolved.control is not None
    memory, candidates = MemoryGauge(CPU), _trials(resolved)
    valid, test = _splits(resolved)
    try:
        with memory.phase("train"):
            control = resolved.control(_training_data(resolved, record, device))
        with memory.phase("eval"):
            trials = [_validate(control, chosen, config, valid) for chosen, config in candidates]
            best = max(trials, key=lambda trial: trial.recall)  # of equal ones the first
            ranks = rank_users(control, best.config, test, TOP)
    finally:
        record.cost.peak_memory = memory.over_processes()
    record.hyperparameters, record.trials = as_dict(best.config), len(trials)
    record.tuning = _tuning(resolved, trials, best)
    record.cost.eval_seconds = float(np.median([trial.seconds for trial in trials]))
    add_quality(record, best.metrics, test.targets, resolved.prepared.trained, ranks)
    return ranks, user_lists(resolved.prepared, test.rows, test.history_start, ranks)


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


def _splits(resolved: ResolvedRun) -> tuple[ScoredSplit, ScoredSplit]:
    """Validation and test."""
    prepared = resolved.prepared
    offsets, items = prepared.offsets.astype(np.int64), prepared.items.astype(np.int64)
    splits = []
    for name, at in (("validation", prepared.valid_at), ("test", prepared.test_at)):
        rows = evaluation_rows(offsets, at.astype(np.int64), resolved.settings.window)
        if not len(rows):
            raise UserError(
                f"dataset '{prepared.name}' has no {name} target: its users' sequences are too short."
            )
        splits.append(ScoredSplit(items, rows, offsets[:-1]))
    return splits[0], splits[1]


def _training_data(resolved: ResolvedRun, record: RunRecord, device: torch.device) -> TrainingData:
    """What a control may read; no target of validation or test is in it."""
    prepared = resolved.prepared
    states = None
    if resolved.llm is not None:
        read = pooled_states(resolved, resolved.llm, device)
        states = (read.values.float() + read.mean).numpy()  # [I, A, D]
        record.cost.prepare_seconds = read.seconds
        if read.statistics is not None:
            record.llm_details |= vars(read.statistics)
    offsets, end = prepared.offsets.astype(np.int64), prepared.train_end.astype(np.int64)
    return training_data(prepared.items, offsets, end, len(prepared.texts), states)


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


def _validate(control: Control, chosen: dict[str, Any], config: Any, valid: ScoredSplit) -> ValidatedTrial:
    clock = Stopwatch(CPU)
    with clock.phase("eval"):
        ranks = rank_users(control, config, valid)
    metrics = {"valid": metrics_of(ranks.raw), "valid_masked": metrics_of(ranks.masked)}
    trial = ValidatedTrial(chosen, config, metrics, clock.seconds["eval"], clock.cpu_seconds["eval"])
    settings = ", ".join(trial.overrides) or "no choice"
    log_main(f"{settings}: valid masked R@10 {trial.recall:.4f}, {trial.seconds:.2f} s")
    return trial


def _tuning(resolved: ResolvedRun, trials: Sequence[ValidatedTrial], best: ValidatedTrial) -> Tuning | None:
    """The trials, as those of a search; None where there was no choice."""
    if len(trials) == 1:
        return None
    stored = [
        Trial(
            overrides=trial.overrides,
            config_hash=digest([resolved.config_hash, as_dict(trial.config)]),
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
