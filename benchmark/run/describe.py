"""Fill a run's record: its settings, its cost, its quality."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime

import numpy as np

from benchmark.data.chance import chance_of
from benchmark.data.filters import in_training
from benchmark.data.prepare import Prepared
from benchmark.llm.encoder import held_in, resolve_pooling
from benchmark.model.chunks import Ints
from benchmark.results.record import GENERATION, Cost, RunRecord
from benchmark.results.schema import Environment, Metrics
from benchmark.results.targets import StoredLists
from benchmark.run.inputs import Inputs
from benchmark.run.spec import ResolvedRun
from benchmark.train.batches import total_steps
from benchmark.train.evaluate import UserRanks
from benchmark.train.loop import Trainer
from methods.base import all_read


def blank(resolved: ResolvedRun, where: Environment) -> RunRecord:
    """All that is known before the run: `failed` until it has ended well."""
    spec, prepared, entry = resolved.spec, resolved.prepared, resolved.entry
    return RunRecord(
        generation=GENERATION,
        status="failed",
        dataset=prepared.name,
        data={
            "key": prepared.key, "recipe": prepared.recipe, "fingerprint": prepared.fingerprint,
            "ceiling": prepared.ceiling, "chance": chance_of(prepared),
        },
        llm=resolved.llm.name if resolved.llm else None,
        llm_details=_llm_details(resolved),
        method=spec.method,
        method_source={
            "distribution": entry.distribution, "version": entry.version, "external": entry.external,
            "code": resolved.code, "reads": all_read(resolved.cls),
            **({"text": _module_text(resolved.cls)} if entry.external else {}),
        },
        protocol=spec.protocol,
        settings=resolved.applied_settings,
        overrides=sorted(spec.overrides),
        hyperparameters=asdict(resolved.config),
        config_hash=resolved.config_hash,
        protocol_hash=resolved.protocol_hash,
        seed=spec.seed,
        trial_of=spec.trial_of,
        environment=where,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _llm_details(resolved: ResolvedRun) -> dict[str, object]:
    """What the language model is, which token stood for a text, and whether its dense layers, if it has any,
    were applied."""
    llm = resolved.llm
    if llm is None:
        return {}
    details = llm.details()
    if llm.server is None:
        details["pooling"] = resolve_pooling(resolved.settings.pooling, llm)
    if llm.intended is not None and llm.intended.dense:
        details["dense_applied"] = resolved.reads_dense
    return details


def _module_text(cls: type) -> str | None:
    """The text of the module of a class; None where there is none, as of compiled code."""
    try:
        return inspect.getsource(sys.modules[cls.__module__])
    except (OSError, TypeError):
        return None


def add_texts(record: RunRecord, resolved: ResolvedRun, inputs: Inputs) -> str | None:
    """What became of the items' texts as tokens: -> a warning, where the language model loses many."""
    if resolved.llm is None or inputs.texts is None:
        return None
    record.llm_details |= vars(inputs.texts)
    return inputs.texts.warning(len(resolved.prepared.texts), resolved.llm.name, resolved.llm.max_tokens)


def add_cost(record: RunRecord, trainer: Trainer, inputs: Inputs) -> None:
    """What is known of the cost before training."""
    parameters, settings = list(trainer.model.parameters()), trainer.settings
    record.cost = Cost(
        prepare_seconds=inputs.prepare_seconds,
        predictions_per_epoch=int(trainer.task.train.predictions.sum()),
        inputs_per_epoch=int(trainer.task.train.length.sum()),
        steps_per_epoch=total_steps(
            trainer.task.train, trainer.task.sequences, replace(settings, epochs=1), record.seed
        ),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        total_parameters=sum(p.numel() for p in parameters),
        states_on=inputs.states_on,
        lower_layers=inputs.context.get("lower"),
        frozen_dtype=held_in(trainer.model.method),
    )


def add_training(record: RunRecord, trainer: Trainer, alone: bool = False) -> None:
    """The curve and the cost of the epochs so far; `alone` where other processes may not answer any more."""
    progress, encoder = trainer.progress, trainer.model.encoder
    record.curve, record.epochs_run = progress.curve, progress.epoch
    record.best_epoch, record.initial = progress.best_epoch or None, progress.initial
    cost = record.cost
    cost.peak_memory = trainer.memory.peaks if alone else trainer.memory.over_processes()
    if encoder.inputs.lengths is not None:
        cost.chunk_tokens, cost.chunk_halvings = encoder.chunk_tokens, encoder.halvings
        cost.kept_tokens = encoder.kept_tokens
        cost.encoded_again = encoder.encoded_again / encoder.encoded if encoder.encoded else None
    if not progress.curve:
        return
    train = [row.train_seconds for row in progress.curve]
    cost.first_epoch_seconds = train[0]
    cost.epoch_seconds = float(np.median(train[1:] or train))
    cpu = [row.train_cpu_seconds for row in progress.curve]
    cost.epoch_cpu_seconds = float(np.median(cpu[1:] or cpu))
    cost.eval_seconds = float(np.median([row.eval_seconds for row in progress.curve]))
    cost.train_seconds = sum(train)
    cost.seconds_to_best = sum(train[: progress.best_epoch])
    cost.candidates = progress.candidates
    if encoder.inputs.lengths is not None:
        cost.encodings_per_epoch = progress.encodings


def add_quality(
    record: RunRecord, valid: dict[str, Metrics], targets: Ints, trained: Ints, ranks: UserRanks
) -> None:
    """Metrics of the chosen epoch or trial, whose metrics on validation are `valid`.

    Of the test, those of warm and cold `targets` `[T]` apart where there are cold ones: none of `trained`.
    """
    metrics, weight = dict(valid), ranks.weight
    cold = ~np.isin(targets, trained)
    record.cold_targets = int(cold.sum())
    record.cold_weight = float(weight[cold].sum()) if (weight < 1).any() else None
    parts = {"test": np.ones_like(cold)}
    if cold.any():
        parts |= {"test_warm": ~cold, "test_cold": cold}
    for name, chosen in parts.items():
        if chosen.any():
            metrics |= ranks.metrics(name, chosen=chosen)
    record.metrics = metrics


def user_lists(prepared: Prepared, ranks: UserRanks) -> StoredLists:
    """The lists of the test with what their measures need of the data; `ranks` were made with lists."""
    assert ranks.top is not None
    items, scores = ranks.top.items, ranks.top.scores  # [T, k]
    trained = training_counts(prepared)
    target = prepared.items[prepared.offsets[ranks.user] + ranks.position]
    columns = {
        "user": ranks.user, "target": target, "history": ranks.position,
        "items": items, "trained": trained,
    }  # fmt: skip
    return StoredLists(
        **{name: column.astype(np.int32) for name, column in columns.items()},
        scores=scores.astype(np.float16),
        interactions=int(trained.sum()),
    )


def training_counts(prepared: Prepared) -> Ints:
    """`[I]` training interactions of each item."""
    training = prepared.items[in_training(prepared.offsets, prepared.train_end)]
    return np.bincount(training, minlength=len(prepared.texts))
