"""The one training loop, for every method, on one process or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmark.config import Settings
from benchmark.measure import MemoryGauge, Stopwatch
from benchmark.model.chunks import Ints
from benchmark.model.items import Batch
from benchmark.model.parallel import average_gradients, start_alike, world_size
from benchmark.model.recommender import Recommender
from benchmark.results.list_metrics import TOP
from benchmark.results.record import Certificate, Epoch
from benchmark.results.schema import Metrics, PeakMemory
from benchmark.train.batches import EpochBatches, Sequences, total_steps
from benchmark.train.checkpoint import Checkpoint, trained_part
from benchmark.train.evaluate import NotFiniteError, UserRanks, evaluate
from benchmark.train.liveness import Liveness, NotAliveError
from benchmark.train.rows import Rows
from benchmark.train.status import RunStatus, publish
from benchmark.train.step import AverageWeights, LearningRate, MemoryRetry, Replay, make_optimiser

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Task:
    """The sequences of a run and its three splits."""

    sequences: Sequences
    train: Rows
    valid: Rows
    test: Rows
    history_start: Ints
    """`[U]` start of each user's sequence in the flat array."""


@dataclass
class TrainingProgress:
    """The state of a run besides weights and optimiser; all of it is in the checkpoint."""

    epoch: int = 0
    step: int = 0
    """Optimiser steps taken."""
    best_epoch: int = 0
    best_value: float = -math.inf
    """Of the metric that selects the epoch."""
    candidates: float = 0.0
    """Mean number of softmax terms of a prediction in the last epoch."""
    encodings: int = 0
    """Items that all processes encoded in training in the last epoch."""
    chunk_tokens: int = 0
    """Tokens of a chunk of item texts."""
    halvings: int = 0
    """Times that a chunk was halved because memory was short."""
    peak_memory: dict[str, dict[str, int | None]] = field(default_factory=dict)
    """Phase -> kind of memory -> peak bytes, the largest over the processes."""
    initial: dict[str, Metrics] = field(default_factory=dict)
    """Validation metrics before training."""
    curve: list[Epoch] = field(default_factory=list)

    def stop_reason(self, settings: Settings) -> str | None:
        """Why training is over, or None."""
        if settings.patience and self.epoch - self.best_epoch >= settings.patience:
            return "patience"
        return "epochs" if self.epoch >= settings.epochs else None

    def status(self, settings: Settings, valid: float, valid_masked: float) -> RunStatus:
        """The status after the last epoch; `valid` is the metric that selects the epoch, raw and masked."""
        last = self.curve[-1]
        spent = sum(row.train_seconds + row.eval_seconds + row.save_seconds for row in self.curve)
        most = settings.epochs - last.epoch
        least = most
        if settings.patience:
            least = min(most, settings.patience - (last.epoch - self.best_epoch))
        return RunStatus(
            epoch=last.epoch,
            epochs=settings.epochs,
            loss=last.loss,
            metric=settings.select_by,
            valid=valid,
            valid_masked=valid_masked,
            best_epoch=self.best_epoch,
            train_seconds=last.train_seconds,
            eval_seconds=last.eval_seconds,
            seconds_left=(least * spent / len(self.curve), most * spent / len(self.curve)),
        )


class Trainer:
    """Trains a recommender to early stopping, a checkpoint each epoch.

    The random numbers of an epoch are a function of (seed, epoch, process), so that a run resumed from a
    checkpoint gives the same figures as an uninterrupted one.
    """

    def __init__(
        self,
        model: Recommender,
        task: Task,
        settings: Settings,
        seed: int,
        accelerator: Accelerator,
        checkpoint: Checkpoint,
        log: Callable[[str], None],
    ) -> None:
        self.task, self.settings, self.seed = task, settings, seed
        self.accelerator, self.checkpoint, self.log = accelerator, checkpoint, log
        self.device: torch.device = accelerator.device
        self.model = model
        self.precision: str = accelerator.mixed_precision
        self.clock, self.memory = Stopwatch(self.device), MemoryGauge(self.device)
        # a fused step under a scaler skips what overflowed without reporting it
        optimiser = make_optimiser(model, settings, fused=accelerator.scaler is None)
        self.trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        start_alike(self.trained)
        self.optimiser = accelerator.prepare(optimiser)
        self.learning_rate = LearningRate(
            optimiser, settings, lambda: total_steps(task.train, task.sequences, settings, seed)
        )
        self.average = AverageWeights(self.trained, settings.average_decay)
        self.liveness = Liveness(model, self.optimiser)
        self.retry = MemoryRetry(model.encoder, accelerator, self.optimiser.zero_grad, log)
        self.replay = Replay(model, self.trained, accelerator, log)
        self.progress = TrainingProgress()
        self.on_epoch: Callable[[Epoch], None] = lambda epoch: None
        """Called in the main process after each epoch, with its row of the curve."""
        self.ranks: dict[str, NDArray[np.float64]] = {}
        """Mean rank of each validation target `[T]`, before training ("first") and at the best epoch."""

    def fit(self) -> str:
        """Train until early stopping or the last epoch; returns which of the two."""
        self._resume()
        if "first" not in self.ranks:
            ranks = self.rank_users(self.task.valid)
            self.ranks["first"] = ranks.raw.mean
            self.progress.initial = ranks.metrics("valid")
        while (reason := self.progress.stop_reason(self.settings)) is None:
            self.run_epoch()
        self.liveness.trained()
        return reason

    def test(self) -> UserRanks:
        """Ranks of the test targets, and the best items of each user, under the best epoch's weights."""
        self.checkpoint.load_best(self.progress.best_epoch, self.model)
        return self.rank_users(self.task.test, TOP)

    def certificate(self) -> Certificate:
        """Liveness of the weights that were tested. Call it after `test`."""
        return self.liveness.certificate(float(np.mean(self.ranks["best"] != self.ranks["first"])))

    def step(self, batches: Sequence[Batch]) -> Tensor:
        """Take one optimiser step on the mean objective of `batches`, together with all other processes.

        Returns the sums of the loss and of the softmax terms over this process's predictions, `[2]` fp64.
        """

        def gradients(batch: Batch) -> Tensor:
            with self.accelerator.autocast():
                loss = self.model(batch.to(self.device))
            self.retry.backward(loss.objective / len(batches))
            return torch.stack([loss.loss_sum.double(), loss.candidates_sum.double()])  # [2]

        sums = self.retry.run(lambda: self.replay.run(gradients, batches))
        average_gradients(self.trained)
        if self.settings.clip_norm:
            self.accelerator.clip_grad_norm_(self.trained, self.settings.clip_norm)
        self.learning_rate.set(self.progress.step + 1)
        self.optimiser.step()
        if not self.optimiser.step_was_skipped:  # fp16 skips a step whose gradients overflow
            self.progress.step += 1
            self.model.method.after_step(self.progress.step)
            self.average.update(self.progress.step)
        self.optimiser.zero_grad()
        return sums

    def rank_users(self, rows: Rows, top: int = 0) -> UserRanks:
        """Ranks of the targets of `rows` under the weights as they are, with the `top` best items."""
        data, start = self.task.sequences, self.task.history_start
        return self.retry.run(lambda: evaluate(self.model, data, rows, start, self.device, self.process, top))

    @property
    def process(self) -> int:
        """Rank of this process among those that train together."""
        return int(self.accelerator.process_index)

    def run_epoch(self) -> None:
        """Train one epoch, validate, save a checkpoint, and report the status."""
        progress, settings = self.progress, self.settings
        epoch = progress.epoch + 1
        with self.memory.phase("train"), self.clock.phase("train"):
            loss, progress.candidates = self.train_epoch(epoch)
        self._check_epoch(epoch, loss)
        with self.memory.phase("eval"), self.clock.phase("eval"), self.average.applied():
            ranks = self.rank_users(self.task.valid)
        valid, valid_masked = self._selected_metric(ranks)
        value = self.selection(ranks)
        seconds = self.clock.seconds
        row = Epoch(
            epoch=epoch,
            loss=loss,
            train_seconds=seconds["train"],
            train_cpu_seconds=self.clock.cpu_seconds["train"],
            train_joules=self.clock.joules["train"],
            eval_seconds=seconds["eval"],
            save_seconds=0.0,
            **ranks.metrics("valid"),
            selection=value,
        )
        progress.epoch = epoch
        progress.curve.append(row)
        progress.chunk_tokens = self.model.encoder.chunk_tokens
        progress.halvings = self.model.encoder.halvings
        peaks = self.memory.over_processes()
        progress.peak_memory = {phase: peak.model_dump() for phase, peak in peaks.items()}
        if better := value > progress.best_value:
            progress.best_epoch, progress.best_value = epoch, value
            self.ranks["best"] = ranks.raw.mean
        with self.clock.phase("save"):
            self._save(better)
        row.save_seconds = seconds["save"]
        status = progress.status(settings, valid, valid_masked)
        self.log(str(status))
        if self.accelerator.is_main_process:
            publish(status)
            self.on_epoch(row)

    def selection(self, ranks: UserRanks) -> float:
        """The metric that selects the epoch, of validation ranks."""
        return self._selected_metric(ranks)[self.settings.select == "masked"]

    def _selected_metric(self, ranks: UserRanks) -> tuple[float, float]:
        """The same, raw and masked."""
        name = self.settings.select_by
        values = ranks.metrics("valid", (name,))
        return values["valid"][name], values["valid_masked"][name]

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """All steps of one epoch: -> mean loss and mean number of softmax terms of a prediction."""
        torch.manual_seed(((self.seed * 100_003 + epoch) * 1_009 + self.process) % 2**63)
        self.model.train()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # [loss, terms, encodings]
        batches = EpochBatches(
            self.task.train, self.task.sequences, self.settings, self.seed, epoch, self.process, world_size()
        )
        encoded_before = self.model.encoder.encoded
        steps = tqdm(
            batches.steps(),
            f"epoch {epoch}",
            -(-len(batches) // self.settings.accumulation),
            leave=False,
            unit="step",
            disable=None if self.process == 0 else True,
        )
        for step_batches in steps:
            sums[:2] += self.step(step_batches)
        sums[2] = self.model.encoder.encoded - encoded_before
        if world_size() > 1:
            dist.all_reduce(sums)
        self.progress.encodings = int(sums[2])
        loss, terms = (sums[:2] / int(self.task.train.predictions.sum())).tolist()
        return loss, terms

    def _check_epoch(self, epoch: int, loss: float) -> None:
        """Raise where the epoch's loss is not finite, or no prediction had a negative."""
        settings = self.settings
        if not math.isfinite(loss):
            raise NotFiniteError(
                f"the training loss is {loss} in epoch {epoch}; lower learning_rate or set precision=no."
            )
        if self.progress.candidates <= settings.positive_in_denominator:
            raise NotAliveError(
                f"no prediction of epoch {epoch} had a negative, so that nothing was learnt: with "
                f"candidates={settings.candidates} and batch_size={settings.batch_size} no batch has another "
                "user's target that is another item; raise batch_size or take candidates=catalogue."
            )

    def _save(self, better: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        weights = trained_part(self.model)
        best = weights
        if better and self.average.decay:
            with self.average.applied():
                best = {name: value.clone() for name, value in trained_part(self.model).items()}
        scaler = self.accelerator.scaler
        state = {
            "weights": weights,
            "optimiser": self.optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "progress": {**asdict(self.progress), "curve": [row.model_dump() for row in self.progress.curve]},
            "average": self.average.state(),
            "ranks": {name: torch.from_numpy(value) for name, value in self.ranks.items()},
        }
        self.checkpoint.save(state, self.progress.best_epoch, best if better else None)

    def _resume(self) -> None:
        state = self.checkpoint.load(self.model)
        if state is None:
            return
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.average.load(state["average"])
        saved = state["progress"]
        self.progress = TrainingProgress(**{**saved, "curve": [Epoch(**row) for row in saved["curve"]]})
        self.ranks = {name: value.numpy() for name, value in state["ranks"].items()}
        self.model.encoder.chunk_tokens = self.progress.chunk_tokens
        self.model.encoder.halvings = self.progress.halvings
        peaks = self.progress.peak_memory.items()
        self.memory.peaks = {phase: PeakMemory(**peak) for phase, peak in peaks}
        self.log(f"going on after epoch {self.progress.epoch} of {self.checkpoint.folder}")
