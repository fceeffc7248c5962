"""From a checked cell to a trainer: its data on the device, its method, the recommender around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmark.cell import Cell, Resolved, cache_folder, resolve_cell
from benchmark.config import Settings, applicable
from benchmark.data.batches import Sequences, most_batches
from benchmark.data.prepare import describe, prepare
from benchmark.data.recipe import find
from benchmark.data.sequences import Ints, evaluation_rows, training_rows
from benchmark.llm.catalogue import LLM
from benchmark.llm.states import States, load_states
from benchmark.measure import native_bf16, pick_device
from benchmark.model.recommender import ItemInputs, Recommender
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Task, Trainer
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


def build_trainer(
    resolved: Resolved, checkpoint: Checkpoint, accelerator: Accelerator | None = None
) -> tuple[Trainer, Inputs]:
    """The recommender of a cell and its data on the device, ready to train."""
    accelerator = accelerator or make_accelerator(pick_precision(resolved.settings, pick_device()))
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
    return Trainer(model, task, settings, seed, accelerator, checkpoint, say), inputs


def make_accelerator(precision: str) -> Accelerator:
    """Accelerate on the GPUs there are, else on the CPU."""
    from accelerate import Accelerator

    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())


def pick_precision(settings: Settings, device: torch.device) -> str:
    """The precision that `auto` means on `device`; raises `UserError` for one that it cannot do."""
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
    task = Task(
        Sequences(prepared.items.astype(np.int64), _twins(resolved), prepared.trained),
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


def say(line: str) -> None:
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
        chosen = applicable(overrides, registry.get(name).Config)
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
