"""Build the trainer of a run: its data on the device, its method, the recommender around it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmark.config import Settings
from benchmark.llm.encoder import FrozenMatrices
from benchmark.measure import native_bf16, pick_device
from benchmark.model.chunks import Ints
from benchmark.model.items import ItemEncoder
from benchmark.model.parallel import log_main
from benchmark.model.recommender import Recommender
from benchmark.run.inputs import CACHE, Inputs, Sources, build_method, load_inputs
from benchmark.run.spec import ResolvedRun
from benchmark.train.batches import Sequences, total_steps
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Task, Trainer
from benchmark.train.sequences import evaluation_rows, training_rows
from methods.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a run -> what its matrices are multiplied in; `no` is fp32."""


def build_trainer(
    resolved: ResolvedRun,
    checkpoint: Checkpoint,
    accelerator: Accelerator | None = None,
    sources: Sources = CACHE,
) -> tuple[Trainer, Inputs]:
    """The recommender of a run and its data on the device, ready to train."""
    accelerator = accelerator or make_accelerator(pick_precision(resolved.settings, pick_device()))
    settings, seed = resolved.settings, resolved.spec.seed
    inputs = load_inputs(resolved, accelerator.device, sources)
    task = _task(resolved, inputs.items.padding)
    steps = total_steps(task.train, task.sequences, settings, seed)
    n_items = len(resolved.prepared.texts)
    torch.manual_seed(seed)
    method = build_method(resolved, inputs, steps)
    low = LOW.get(accelerator.mixed_precision)
    llm = inputs.context.get("llm")
    frozen = FrozenMatrices(llm, low) if low is not None and llm is not None else None
    encoder = ItemEncoder(inputs.items, settings, accelerator.device, low, frozen)
    torch.manual_seed(seed * 100_003 + 1)  # every method gets the same SASRec, however many numbers it drew
    model = Recommender(method, encoder, n_items, len(task.sequences.trained), settings)
    return Trainer(model, task, settings, seed, accelerator, checkpoint, log_main), inputs


def make_accelerator(precision: str) -> Accelerator:
    """Accelerate on the GPUs there are, else on the CPU. Raises `UserError` for a process without a GPU."""
    from accelerate import Accelerator

    gpus, place = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available() and place >= gpus:
        raise UserError(f"process {place + 1} of this machine has no GPU: there are {gpus}; start no more.")
    # cuDNN's attention makes a plan for each new shape, 35 ms each way; chunks of texts have ever new shapes
    torch.backends.cuda.enable_cudnn_sdp(False)
    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())


def pick_precision(settings: Settings, device: torch.device) -> str:
    """The precision that `auto` means on `device`; raises `UserError` for one that it cannot do."""
    if settings.precision == "auto":
        return "bf16" if native_bf16(device) else "no"
    if settings.precision == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16 needs a GPU; on this CPU use auto, bf16 or no.")
    return settings.precision


def _task(resolved: ResolvedRun, padding: int) -> Task:
    """The rows of each split and the catalogue. Items with the same input share their encoding."""
    prepared, settings = resolved.prepared, resolved.settings
    offsets, end = prepared.offsets.astype(np.int64), prepared.train_end.astype(np.int64)
    task = Task(
        Sequences(prepared.items.astype(np.int64), _twins(resolved), prepared.trained, padding),
        training_rows(offsets, end, settings.window, settings.sequences, settings.slide_window),
        evaluation_rows(offsets, prepared.valid_at, settings.window, prepared.valid_end),
        evaluation_rows(offsets, prepared.test_at, settings.window, prepared.test_end),
        offsets[:-1],
    )
    for part, rows in {"training": task.train, "validation": task.valid, "test": task.test}.items():
        if not len(rows):
            raise UserError(
                f"dataset '{prepared.name}' has no {part} target: its users' sequences are too short."
            )
    _check_negatives(task, settings, prepared.name)
    return task


def _check_negatives(task: Task, settings: Settings, name: str) -> None:
    """Raise `UserError` where no prediction has a negative."""
    users = np.unique(task.train.user[task.train.predictions > 0])
    if settings.candidates == "batch" and len(users) == 1:
        raise UserError(
            f"dataset '{name}' has one user in training, and candidates=batch takes other users' targets as "
            "negatives: no batch has any, so that nothing can be learnt; take candidates=catalogue."
        )
    if settings.candidates != "batch" and len(task.sequences.trained) == 1:
        raise UserError(
            f"dataset '{name}' has one item in training, so that there are no negatives and nothing can be "
            "learnt; give it more items."
        )


def _twins(resolved: ResolvedRun) -> Ints:
    """`[I]` the first item with the same text, for readers of texts; itself where items have own vectors."""
    texts = resolved.prepared.texts
    if resolved.cls.reads == "ids" or resolved.settings.ids == "add":
        return np.arange(len(texts))
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, item) for item, text in enumerate(texts)])
