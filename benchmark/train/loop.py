"""The one training loop, for every method, on one process or many."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from benchmark.config import Settings
from benchmark.data.batches import EpochBatches, Sequences
from benchmark.data.sequences import Ints, Rows
from benchmark.measure import MemoryGauge, Stopwatch
from benchmark.model.recommender import Recommender, world_size
from benchmark.record import Epoch
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.evaluate import NotFiniteError, UserRanks, evaluate
from benchmark.train.metrics import metrics_of

if TYPE_CHECKING:
    from accelerate import Accelerator

SELECT = "recall@10"


@dataclass(frozen=True)
class Task:
    """The data of a run, ready to be read."""

    sequences: Sequences
    train: Rows
    valid: Rows
    test: Rows
    history_start: Ints
    """`[U]` start of each user's sequence in the flat array."""


@dataclass
class Progress:
    """How far a run is; all of it lies in the checkpoint."""

    epoch: int = 0
    step: int = 0
    """Optimiser steps taken."""
    best_epoch: int = 0
    best_value: float = -math.inf
    candidates: float = 0.0
    """Mean number of softmax terms of a prediction in the last epoch."""
    curve: list[Epoch] = field(default_factory=list)

    def stop_reason(self, settings: Settings) -> str | None:
        """Why training is over, or None."""
        if settings.patience and self.epoch - self.best_epoch >= settings.patience:
            return "patience"
        return "epochs" if self.epoch >= settings.epochs else None


class Trainer:
    """Trains a recommender to early stopping, a checkpoint each epoch.

    The random numbers of an epoch are a function of (seed, epoch, process), so a run that goes on from a
    checkpoint repeats what an uninterrupted one would have done.
    """

    def __init__(
        self,
        model: Recommender,
        task: Task,
        settings: Settings,
        seed: int,
        accelerator: Accelerator,
        checkpoint: Checkpoint,
        say: Callable[[str], None],
    ) -> None:
        self.task, self.settings, self.seed = task, settings, seed
        self.accelerator, self.checkpoint, self.say = accelerator, checkpoint, say
        self.device: torch.device = accelerator.device
        self.bare = model
        self.precision: str = accelerator.mixed_precision
        self.clock, self.memory = Stopwatch(self.device), MemoryGauge(self.device)
        optimiser = torch.optim.Adam(parameter_groups(model, settings.learning_rate), fused=True)
        self.model, self.optimiser = accelerator.prepare(model, optimiser)
        self.progress = Progress()

    def fit(self) -> str:
        """Train until early stopping or the last epoch; returns which of the two."""
        self._resume()
        while (reason := self.progress.stop_reason(self.settings)) is None:
            self._epoch()
        return reason

    def test(self) -> UserRanks:
        """Ranks of the test targets under the best epoch's weights."""
        best = self.checkpoint.load_best(self.progress.best_epoch)
        self.bare.load_state_dict(best)
        return evaluate(
            self.bare, self.task.sequences, self.task.test, self.task.history_start, self.device, self._rank
        )

    @property
    def _rank(self) -> int:
        return int(self.accelerator.process_index)

    def _epoch(self) -> None:
        progress = self.progress
        epoch = progress.epoch + 1
        with self.memory.phase("train"), self.clock.phase("train"):
            loss, progress.candidates = self._train(epoch)
        if not math.isfinite(loss):
            raise NotFiniteError(
                f"the training loss is {loss} in epoch {epoch}; lower learning_rate or set precision=no."
            )
        with self.memory.phase("eval"), self.clock.phase("eval"):
            ranks = evaluate(
                self.bare,
                self.task.sequences,
                self.task.valid,
                self.task.history_start,
                self.device,
                self._rank,
            )
        seconds = self.clock.seconds
        row = Epoch(
            epoch=epoch,
            loss=loss,
            train_seconds=seconds["train"],
            train_cpu_seconds=self.clock.cpu_seconds["train"],
            eval_seconds=seconds["eval"],
            save_seconds=0.0,
            valid=metrics_of(ranks.raw),
            valid_masked=metrics_of(ranks.masked),
        )
        progress.epoch = epoch
        progress.curve.append(row)
        value = (row.valid if self.settings.select == "raw" else row.valid_masked)[SELECT]
        if better := value > progress.best_value:
            progress.best_epoch, progress.best_value = epoch, value
        with self.clock.phase("save"):
            self._save(better)
        row.save_seconds = seconds["save"]
        self.say(self._line(row))

    def _train(self, epoch: int) -> tuple[float, float]:
        """One epoch: mean loss and mean number of softmax terms of a prediction."""
        torch.manual_seed(((self.seed * 100_003 + epoch) * 1_009 + self._rank) % 2**63)
        self.model.train()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # [loss, terms]
        batches = EpochBatches(
            self.task.train, self.task.sequences, self.settings, self.seed, epoch, self._rank, world_size()
        )
        group, total = self.settings.accumulation, len(batches)
        bar = tqdm(
            batches, f"epoch {epoch}", leave=False, unit="step", disable=None if self._rank == 0 else True
        )
        for index, batch in enumerate(bar):
            begin = index - index % group
            members = min(group, total - begin)
            last = index + 1 == begin + members
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                step = self.model(batch.to(self.device))
                self.accelerator.backward(step.objective / members)
            sums += torch.stack([step.loss_sum.double(), step.candidates_sum.double()])
            if last:
                self._optimise()
        if world_size() > 1:
            dist.all_reduce(sums)
        loss, terms = (sums / int(self.task.train.predictions.sum())).tolist()
        return loss, terms

    def _optimise(self) -> None:
        if self.settings.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        self.progress.step += 1
        self.bare.method.after_step(self.progress.step)
        self.optimiser.zero_grad()

    def _line(self, row: Epoch) -> str:
        """What a person watching wants to know after an epoch."""
        settings, progress = self.settings, self.progress
        spent = sum(e.train_seconds + e.eval_seconds + e.save_seconds for e in progress.curve) / len(
            progress.curve
        )
        most = settings.epochs - row.epoch
        least = (
            min(most, settings.patience - (row.epoch - progress.best_epoch)) if settings.patience else most
        )
        left = (
            f"{_minutes(least * spent)} to {_minutes(most * spent)}"
            if least < most
            else _minutes(most * spent)
        )
        return (
            f"epoch {row.epoch:3d}/{settings.epochs}  loss {row.loss:.4f}  "
            f"valid R@10 {row.valid[SELECT]:.4f} (masked {row.valid_masked[SELECT]:.4f})  "
            f"best epoch {progress.best_epoch}  "
            f"train {row.train_seconds:.2f} s, eval {row.eval_seconds:.2f} s, left {left}"
        )

    def _save(self, better: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        weights = self.bare.state_dict()
        scaler = self.accelerator.scaler
        state = {
            "weights": weights,
            "optimiser": self.optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "progress": {**asdict(self.progress), "curve": [row.model_dump() for row in self.progress.curve]},
        }
        self.checkpoint.save(state, self.progress.best_epoch, weights if better else None)

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        self.bare.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        saved = state["progress"]
        self.progress = Progress(**{**saved, "curve": [Epoch(**row) for row in saved["curve"]]})
        self.say(f"going on after epoch {self.progress.epoch} of {self.checkpoint.folder}")


def parameter_groups(model: Recommender, lr: float) -> list[dict[str, Any]]:
    """The method's groups, and one for SASRec and the id embedding."""
    own = {id(parameter) for parameter in model.method.parameters()}
    shared: list[Tensor] = [parameter for parameter in model.parameters() if id(parameter) not in own]
    return [*model.method.param_groups(lr), {"params": shared, "lr": lr}]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
