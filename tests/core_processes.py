"""What a step, a ranking and a whole run compute, for one process or many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from core_worlds import World, make_world, recommender, token_recommender, trainer, with_settings
from torch import Tensor

from benchmark.config import Settings
from benchmark.model.parallel import average_gradients, world_size
from benchmark.model.recommender import Recommender
from benchmark.results.list_metrics import TOP
from benchmark.train.batches import EpochBatches, build_batch
from benchmark.train.control_ranks import FusedModel, ScoredSplit
from benchmark.train.evaluate import evaluate
from benchmark.train.rows import evaluation_rows
from methods.base import Items, Method
from methods.controls.base import TrainingData
from methods.controls.popularity import Popularity

CPU = torch.device("cpu")
METHODS: dict[str, dict[str, Any]] = {"id": {}, "ssna": {"noise": "never", "top_layers": 2}}
TUNED: dict[str, dict[str, Any]] = {"lora": {}, "adalora": {}, "full": {"layers": 2}}
CANDIDATES = ("batch", "catalogue", "sampled")
CHUNK = 24
"""Tokens: a few texts."""


class WithAuxiliary(Method):
    """A method with a term of its own, which counts once whatever the number of processes."""

    def __init__(self, inner: Method) -> None:
        super().__init__(inner.config, None)  # type: ignore[arg-type]
        self.inner = inner

    def forward(self, items: Items) -> Tensor:
        return self.inner(items)

    def aux_loss(self) -> Tensor:
        return sum(p.square().sum() for p in self.parameters())  # type: ignore[return-value]


def build(settings: Settings, world: World, method: str) -> Recommender:
    return recommender(settings, world, method, **METHODS[method])


def step(model: Recommender, batch: Any) -> dict[str, Any]:
    """Global loss and terms of one step, and every gradient after the processes averaged it."""
    loss = model(batch)
    loss.objective.backward()
    average_gradients(model.parameters())
    sums = torch.stack([loss.loss_sum.double(), loss.candidates_sum.double()])
    if world_size() > 1:
        dist.all_reduce(sums)
    return {
        "sums": sums,
        "gradients": {
            name: p.grad if p.grad is not None else torch.tensor(torch.nan)
            for name, p in model.named_parameters()
            if p.requires_grad
        },
    }


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def steps() -> dict[str, Any]:
    """One step and all ranks, for each method and pool of candidates; then the odd cases."""
    world, found = make_world(5, n_users=11), {}
    for method in METHODS:
        for candidates in CANDIDATES:
            settings = with_settings(
                candidates=candidates, samples=5, batch_size=23, ids="add" if method != "id" else "none"
            )
            task, model = world.task(settings), build(settings, world, method)
            batch = next(iter(EpochBatches(task.train, task.sequences, settings, 3, 1, rank(), world_size())))
            found[f"{method} {candidates}"] = step(model, batch)
        model = build(settings, world, method)
        ranks = evaluate(model, task.sequences, task.test, task.history_start, CPU, rank(), TOP)
        popularity = Popularity(TrainingData(world.n_items, world.items, world.offsets))
        mixture = FusedModel(model, task.sequences, popularity, None, CPU, rank())
        split = ScoredSplit(world.items, task.test, task.history_start)
        found[f"{method} mixtures"] = [
            column
            for mixed in mixture.rank_users(split, (0.1, 0.7), TOP)
            for column in (mixed.user, mixed.raw.best, mixed.masked.best, mixed.masked.tied, mixed.top.items)
        ]
        found[f"{method} ranks"] = {
            "user": ranks.user, "raw": ranks.raw.mean, "masked": ranks.masked.mean,
            "top": ranks.top and ranks.top.items,
        }  # fmt: skip
        both = evaluation_rows(world.offsets, world.valid_at, settings.window, world.test_at + 1)
        several = evaluate(model, task.sequences, both, task.history_start, CPU, rank())
        found[f"{method} several targets"] = {
            "user": several.user, "position": several.position, "raw": several.raw.mean,
        }  # fmt: skip
        few = task.test.take(np.array([4]))  # one user: a process has none
        found[f"{method} one user"] = {
            "raw": evaluate(model, task.sequences, few, task.history_start, CPU, rank()).raw.mean
        }
    for candidates in CANDIDATES:
        settings = with_settings(candidates=candidates, samples=5)
        task = world.task(settings)
        one_row = task.train.take(np.array([0]))
        draws = {"batch": None, "catalogue": task.sequences.trained, "sampled": np.array([1, 2, 5])}[
            candidates
        ]
        batch = build_batch(one_row, task.sequences, settings, draws, rank(), world_size())
        found[f"one row {candidates}"] = step(build(settings, world, "ssna"), batch)
    model = build(settings, world, "id")
    model.method = WithAuxiliary(model.method)
    found["auxiliary"] = step(model, batch)
    return found


def tuned_steps() -> dict[str, Any]:
    """A step of each method that trains the language model: with its dropout in two ways, and without."""
    world, found = make_world(5, n_users=11), {}
    for method, hyper in TUNED.items():
        for encode in ("unique", "cached"):
            for silent in (False, True):
                settings = with_settings(batch_size=23, encode=encode, chunk_tokens=CHUNK)
                task = world.task(settings)
                chosen = {
                    **hyper,
                    "llm_dropout": not silent,
                    **({} if method == "full" else {"dropout": 0.0}),
                }
                model = token_recommender(settings, world, method, **chosen)
                torch.manual_seed(rank())
                batch = next(
                    iter(EpochBatches(task.train, task.sequences, settings, 3, 1, rank(), world_size()))
                )
                found[f"{method} {encode}{' silent' if silent else ''}"] = step(model.train(), batch)
        ranks = evaluate(model, task.sequences, task.test, task.history_start, CPU, rank())
        found[f"{method} ranks"] = {"user": ranks.user, "raw": ranks.raw.mean, "masked": ranks.masked.mean}
    return found


def tuned_run(folder: Path, chunk: int, limit: int | None = None, method: str = "lora") -> dict[str, Any]:
    """A run without dropout; chunks of more than `limit` tokens do not fit into the last process's memory."""
    world = make_world(6, n_users=20, n_items=20)
    settings = with_settings(
        batch_size=16, accumulation=2, patience=1, epochs=3, learning_rate=0.01, chunk_tokens=chunk
    )
    quiet: dict[str, Any] = {"llm_dropout": False} | ({} if method == "full" else {"dropout": 0.0})
    model = token_recommender(settings, world, method, **quiet)
    read = model.encoder.inputs.read

    def watched(items: Tensor, width: int) -> Items:
        # the second time that a chunk is read it is for its gradients
        short = limit is not None and rank() == world_size() - 1 and len(items) * width > limit
        if short and torch._C._current_graph_task_id() >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return read(items, width)

    model.encoder.inputs = replace(model.encoder.inputs, read=watched)
    made, _ = trainer(model, world.task(settings), settings, folder, seed=2)
    reason = made.fit()
    return {
        "reason": reason, "best_epoch": made.progress.best_epoch, "step": made.progress.step,
        "curve": [(row.loss, row.valid["ndcg@50"]) for row in made.progress.curve],
        "encodings": made.progress.encodings, "halvings": made.progress.halvings,
        "chunk_tokens": made.progress.chunk_tokens, "test": made.test().raw.mean,
        "problems": made.certificate().problems, "extra": made.model.method.extra_record(),
    }  # fmt: skip


def whole_run(folder: Path) -> dict[str, Any]:
    """A run to early stopping."""
    world = make_world(6, n_users=30, n_items=60)
    settings = with_settings(
        batch_size=16,
        accumulation=2,
        patience=2,
        epochs=9,
        learning_rate=0.03,
        candidates="batch",
        clip_norm=1.0,
    )
    made, _ = trainer(
        build(settings, world, "id"), world.task(settings), settings, folder / f"{world_size()}", seed=2
    )
    reason = made.fit()
    curve = [(row.loss, row.valid["ndcg@50"], row.valid_masked["recall@10"]) for row in made.progress.curve]
    return {
        "reason": reason, "best_epoch": made.progress.best_epoch, "step": made.progress.step,
        "candidates": made.progress.candidates, "curve": curve, "test": made.test().raw.mean,
    }  # fmt: skip


def measure(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on the number of processes."""
    here = folder / f"{world_size()}"
    return {
        **steps(), **tuned_steps(), "run": whole_run(folder), "processes": world_size(),
        "short": tuned_run(here / "short", 4 * CHUNK, CHUNK),
        **{f"{method} run": tuned_run(here / method, CHUNK, method=method) for method in TUNED},
    }  # fmt: skip


def save(folder: Path) -> None:
    """Leave it in the file `two.pt`."""
    found = measure(folder)
    if rank() == 0:
        torch.save(found, folder / "two.pt")
