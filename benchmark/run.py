"""One run: from a cell to its record. Meant for a process of its own, or one per GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from benchmark.cell import Cell, Resolved, cache_folder, resolve_cell
from benchmark.config import Settings, as_dict
from benchmark.data.batches import Sequences, most_batches
from benchmark.data.prepare import Prepared, describe, prepare
from benchmark.data.recipe import find
from benchmark.data.sequences import Ints, evaluation_rows, training_rows
from benchmark.llm.catalogue import LLM
from benchmark.llm.states import States, load_states
from benchmark.measure import device_name, environment, native_bf16, pick_device
from benchmark.model.recommender import ItemInputs, Recommender, world_size
from benchmark.record import Cost, Environment, Metrics, RunRecord, finished, ranks_path, write_atomically
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.evaluate import NotFiniteError, UserRanks
from benchmark.train.loop import Task, Trainer
from benchmark.train.metrics import chance, metrics_of
from methods import registry
from methods.base import Context, Items, state_statistics
from methods.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Inputs:
    """What the method reads, and what it may know about it."""

    items: ItemInputs
    context: dict[str, Any]
    states: States | None


def run(cell: Cell, results: Path, fresh: bool = False) -> tuple[Path, RunRecord]:
    """Run `cell`, or return its record where it is finished; go on where it was interrupted.

    `fresh` discards a finished record and a checkpoint. A fault of the run itself is recorded (`failed`,
    `oom`) and returned; a user's mistake raises `UserError`; ctrl-C leaves the checkpoint and re-raises.
    """
    resolved = resolve_cell(cell)  # in every process; file locks let one prepare the data and the others wait
    precision = _precision(resolved.settings, pick_device())
    accelerator = _accelerator(precision)
    path = resolved.record_path(results)
    checkpoint = Checkpoint(path.with_suffix(".checkpoint"))
    with _alone(path, accelerator):
        if fresh and accelerator.is_main_process:
            path.unlink(missing_ok=True)
            checkpoint.remove()
        accelerator.wait_for_everyone()
        if record := finished(path):
            _say(f"finished already: {path} (--fresh runs it anew)")
            return path, record
        return path, _attempt(resolved, precision, accelerator, path, checkpoint)


def _attempt(
    resolved: Resolved, precision: str, accelerator: Accelerator, path: Path, checkpoint: Checkpoint
) -> RunRecord:
    """Run to the end, and record how it ended."""
    record = _blank(resolved, environment(accelerator.device, precision, world_size()))
    try:
        ranks = _execute(resolved, record, accelerator, checkpoint)
    except KeyboardInterrupt:
        _write(record, "interrupted", "stopped by ctrl-C; the same command goes on from the last epoch", path)
        raise
    except UserError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        return _write(record, "oom", _one_line(error), path)
    except NotFiniteError as error:
        return _write(record, "failed", _one_line(error), path)
    except Exception as error:
        _write(record, "failed", f"{type(error).__name__}: {_one_line(error)}", path)
        raise
    if accelerator.is_main_process:
        _write_ranks(ranks, path)
    done = _write(record, "ok", None, path)
    if accelerator.is_main_process:
        checkpoint.remove()  # last: a kill before the record stands must leave something to go on from
    return done


def _execute(
    resolved: Resolved, record: RunRecord, accelerator: Accelerator, checkpoint: Checkpoint
) -> UserRanks:
    """Train and test; fills `record` as it goes."""
    trainer, inputs = build_trainer(resolved, checkpoint, accelerator)
    _describe_cost(record, trainer, inputs)
    try:
        record.stopped = trainer.fit()
    finally:
        _describe_training(record, trainer)
    ranks = trainer.test()
    record.extra = trainer.bare.method.extra_record()
    _describe_quality(record, trainer.task, ranks)
    return ranks


def _accelerator(precision: str) -> Accelerator:
    from accelerate import Accelerator

    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())


def _precision(settings: Settings, device: torch.device) -> str:
    if settings.precision == "auto":
        return "bf16" if native_bf16(device) else "no"
    if settings.precision == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16 needs a GPU; on this CPU use auto, bf16 or no.")
    return settings.precision


def _inputs(resolved: Resolved, device: torch.device) -> Inputs:
    """The reader's data on the device: hidden states, or nothing but the items' indices."""
    if resolved.llm is None:
        return Inputs(lambda items: Items(ids=items), {}, None)
    if resolved.cls.reads != "states":
        raise UserError(f"method '{resolved.cell.method}' reads tokens, which this version cannot feed yet.")
    llm, settings = resolved.llm, resolved.settings
    layers = resolved.cls.layers(resolved.config, llm.n_layers)
    states = load_states(
        resolved.prepared.texts, llm, layers, settings.pooling, settings.states_dtype, cache_folder(), device
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the language model is gone; its memory must not count as training's
    mean, std = state_statistics(states.values)
    values, offset = states.values.to(device), states.mean.to(device)  # [I, A, D], [A, D]

    def read(items: Tensor) -> Items:
        return Items(states=values[items] + offset)  # [M, A, D] fp32

    context = {
        "llm_layers": llm.n_layers,
        "llm_width": llm.width,
        "state_mean": mean + states.mean,
        "state_std": std,
    }
    return Inputs(read, context, states)


def _task(resolved: Resolved) -> Task:
    """Rows and the catalogue's facts. Items with the same input share their encoding."""
    prepared, settings = resolved.prepared, resolved.settings
    offsets, end = prepared.offsets.astype(np.int64), prepared.train_end.astype(np.int64)
    items = prepared.items.astype(np.int64)
    position = np.arange(len(items)) - np.repeat(offsets[:-1], np.diff(offsets))
    trained = np.unique(items[position < np.repeat(end, np.diff(offsets))])
    task = Task(
        Sequences(items, _twins(resolved), trained),
        training_rows(offsets, end, settings.window, settings.sequences),
        evaluation_rows(offsets, prepared.valid_at.astype(np.int64), settings.window),
        evaluation_rows(offsets, prepared.test_at.astype(np.int64), settings.window),
        offsets[:-1],
    )
    for part, rows in {"training": task.train, "validation": task.valid, "test": task.test}.items():
        if not len(rows):
            raise UserError(
                f"dataset '{prepared.name}' has no {part} target: its users' sequences are too short."
            )
    return task


def _twins(resolved: Resolved) -> Ints:
    """`[I]` the first item with the same text, for readers of texts; itself where items have own vectors."""
    texts = resolved.prepared.texts
    if resolved.llm is None or resolved.settings.ids == "add":
        return np.arange(len(texts))
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, item) for item, text in enumerate(texts)])


def build_trainer(
    resolved: Resolved, checkpoint: Checkpoint, accelerator: Accelerator | None = None
) -> tuple[Trainer, Inputs]:
    """The recommender of a cell and its data on the device, ready to train."""
    accelerator = accelerator or _accelerator(_precision(resolved.settings, pick_device()))
    settings, seed = resolved.settings, resolved.cell.seed
    inputs, task = _inputs(resolved, accelerator.device), _task(resolved)
    steps = -(-most_batches(task.train, settings.batch_size) // settings.accumulation)
    n_items = len(resolved.prepared.texts)
    torch.manual_seed(seed)
    context = Context(
        out_dim=settings.width, n_items=n_items, total_steps=steps * settings.epochs, **inputs.context
    )
    method = resolved.cls(resolved.config, context)
    model = Recommender(method, inputs.items, n_items, len(task.sequences.trained), settings)
    model.to(accelerator.device)
    return Trainer(model, task, settings, seed, accelerator, checkpoint, _say), inputs


def _blank(resolved: Resolved, where: Environment) -> RunRecord:
    cell, prepared, entry = resolved.cell, resolved.prepared, resolved.entry
    return RunRecord(
        status="failed",
        dataset=prepared.name,
        data={
            "key": prepared.key, "recipe": prepared.recipe, "fingerprint": prepared.fingerprint,
            "ceiling": prepared.ceiling, "chance": _chance(resolved),
        },
        llm=resolved.llm.name if resolved.llm else None,
        llm_details=resolved.llm.details() if resolved.llm else {},
        method=cell.method,
        method_source={
            "distribution": entry.distribution, "version": entry.version, "external": entry.external,
        },
        protocol=cell.protocol,
        settings=as_dict(resolved.settings),
        overrides=sorted(cell.overrides),
        hyperparameters=as_dict(resolved.config),
        config_hash=resolved.config_hash,
        protocol_hash=resolved.protocol_hash,
        seed=cell.seed,
        environment=where,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _chance(resolved: Resolved) -> dict[str, Metrics]:
    """What a random order of the catalogue would give on every split; masked over what is left of it."""
    prepared = resolved.prepared
    n_items = len(prepared.texts)
    raw = chance(n_items)
    values = {}
    for split, at in (("valid", prepared.valid_at), ("test", prepared.test_at)):
        seen = _distinct_seen(prepared, at)
        scale = float(np.mean(n_items / (n_items - seen))) if len(seen) else 1.0
        values[split] = raw
        values[f"{split}_masked"] = {name: value * scale for name, value in raw.items()}
    # a random order knows no warm from cold
    parts = {
        f"test_{part}{form}": values[f"test{form}"] for part in ("warm", "cold") for form in ("", "_masked")
    }
    return values | parts


def _distinct_seen(prepared: Prepared, at: Ints) -> Ints:
    """`[u]` distinct items in the history of each user with a target, the target itself left out."""
    users = np.flatnonzero(at > 0)
    lengths = np.diff(prepared.offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(user)) - prepared.offsets[user]
    target = prepared.items[prepared.offsets[:-1] + np.maximum(at, 0)]
    counted = (position < at[user]) & (prepared.items != target[user])
    pairs = np.unique(user[counted] * len(prepared.texts) + prepared.items[counted])
    return np.bincount(pairs // len(prepared.texts), minlength=len(lengths))[users]


def _describe_cost(record: RunRecord, trainer: Trainer, inputs: Inputs) -> None:
    parameters, settings = list(trainer.bare.parameters()), trainer.settings
    record.cost = Cost(
        prepare_seconds=inputs.states.seconds if inputs.states else None,
        predictions_per_epoch=int(trainer.task.train.predictions.sum()),
        steps_per_epoch=-(-most_batches(trainer.task.train, settings.batch_size) // settings.accumulation),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        total_parameters=sum(p.numel() for p in parameters),
        states_on=device_name(trainer.device) if inputs.states else None,
    )


def _describe_training(record: RunRecord, trainer: Trainer) -> None:
    progress = trainer.progress
    record.curve, record.epochs_run = progress.curve, progress.epoch
    record.best_epoch = progress.best_epoch or None
    cost = record.cost
    cost.peak_memory = trainer.memory.over_processes()
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


def _describe_quality(record: RunRecord, task: Task, ranks: UserRanks) -> None:
    best = record.curve[(record.best_epoch or 1) - 1]
    metrics = {"valid": best.valid, "valid_masked": best.valid_masked}
    targets = task.sequences.items[task.test.start + task.test.length]
    cold = ~np.isin(targets, task.sequences.trained)
    record.cold_targets = int(cold.sum())
    parts = {"test": np.ones_like(cold)}
    if cold.any():
        parts |= {"test_warm": ~cold, "test_cold": cold}
    for name, users in parts.items():
        if users.any():
            metrics[name] = metrics_of(ranks.raw[users])
            metrics[f"{name}_masked"] = metrics_of(ranks.masked[users])
    record.metrics = metrics


def _write(record: RunRecord, status: str, error: str | None, path: Path) -> RunRecord:
    record = RunRecord.model_validate({**record.model_dump(), "status": status, "error": error})
    if not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
        record.write(path)
    return record


def _write_ranks(ranks: UserRanks, path: Path) -> None:
    """Parquet beside the record: user (index in the prepared data), rank, rank_masked."""
    table = pa.table({
        "user": pa.array(ranks.user.astype(np.int32)),
        "rank": pa.array(ranks.raw),
        "rank_masked": pa.array(ranks.masked),
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(ranks_path(path), sink.getvalue().to_pybytes())


@contextmanager
def _alone(path: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep a second process off the same cell. Only the main process of a group holds the lock."""
    if not accelerator.is_main_process:
        yield
        return
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another process is working on {path}; wait for it or stop it.") from error
    except OSError as error:
        raise UserError(
            f"records cannot be written to {path.parent}: {error}; choose another --results."
        ) from error
    try:
        yield
    finally:
        lock.release()
        path.with_suffix(".lock").unlink(missing_ok=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _say(line: str) -> None:
    """Progress goes to stderr, once: stdout is for the record's path."""
    if not (torch.distributed.is_initialized() and torch.distributed.get_rank()):
        print(line, file=sys.stderr, flush=True)


def prepare_inputs(
    dataset: str, llm: str | None, methods: list[str] | None, overrides: tuple[str, ...]
) -> Iterator[str]:
    """Prepare a dataset and, where a language model is named, the states that `methods` read of it.

    Yields lines for the terminal.
    """
    prepared = prepare(find(dataset), cache_folder())
    yield describe(prepared)
    yield from (f"warning: {warning}" for warning in prepared.warnings)
    if llm is None:
        return
    layers: dict[tuple[str, str], set[int]] = {}
    model: LLM | None = None
    for name in methods or registry.names():
        own = {field.name for field in fields(registry.get(name).Config)} | {
            field.name for field in fields(Settings)
        }
        chosen = tuple(pair for pair in overrides if pair.partition("=")[0] in own)
        resolved = resolve_cell(Cell(dataset, llm, name, overrides=chosen))
        if resolved.llm is not None and resolved.cls.reads == "states":
            model = resolved.llm
            wanted = layers.setdefault((resolved.settings.pooling, resolved.settings.states_dtype), set())
            wanted.update(resolved.cls.layers(resolved.config, model.n_layers))
    for (pooling, dtype), wanted in layers.items():
        assert model is not None
        order = sorted(wanted, reverse=True)
        states = load_states(prepared.texts, model, order, pooling, dtype, cache_folder(), pick_device())
        how = "already there" if states.hit else "computed"
        yield f"hidden states of {model.name}, layers {order}: {how}; cold cost {states.seconds:.1f} s"
