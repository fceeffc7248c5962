"""The one training loop, for every method, on one process or many."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from benchmark.config import Settings
from benchmark.measure import MemoryGauge, Stopwatch, out_of_memory
from benchmark.model.batch import Batch, Ints
from benchmark.model.parallel import (
    ShortOfMemoryError,
    any_process,
    average_gradients,
    start_alike,
    world_size,
)
from benchmark.model.recommender import Recommender, StepLoss
from benchmark.results.metrics import metrics_of
from benchmark.results.record import Certificate, Epoch, Metrics
from benchmark.train.batches import EpochBatches, Sequences
from benchmark.train.checkpoint import Checkpoint, trained_part
from benchmark.train.evaluate import NotFiniteError, UserRanks, evaluate
from benchmark.train.graphs import StepGraphs
from benchmark.train.liveness import Liveness, NotAliveError
from benchmark.train.sequences import Rows
from benchmark.train.told import EpochLine

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
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
    encodings: int = 0
    """Items that all processes encoded in training in the last epoch."""
    chunk_tokens: int = 0
    """Tokens of a chunk of item texts."""
    halvings: int = 0
    """Times that a chunk was halved for want of memory."""
    initial: dict[str, Metrics] = field(default_factory=dict)
    """Validation metrics before training."""
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
        self.model = model
        self.precision: str = accelerator.mixed_precision
        self.clock, self.memory = Stopwatch(self.device), MemoryGauge(self.device)
        groups = parameter_groups(model, settings.learning_rate)
        self.trained = [parameter for group in groups for parameter in group["params"]]
        start_alike(self.trained)
        # under a scaler, a fused step skips by itself what overflowed, and nobody learns of it
        self.optimiser = accelerator.prepare(torch.optim.Adam(groups, fused=accelerator.scaler is None))
        self.liveness = Liveness(model, self.optimiser)
        self.graphs = (
            StepGraphs(self._add_gradients, self.trained, self.device, say) if self._replays() else None
        )
        """Where steps are replayed."""
        self.progress = Progress()
        self.ranks: dict[str, NDArray[np.float64]] = {}
        """Each user's mean validation rank `[U]` before training ("first") and at the best epoch ("best")."""

    def fit(self) -> str:
        """Train until early stopping or the last epoch; returns which of the two."""
        self._resume()
        if "first" not in self.ranks:
            ranks = self.rank_users(self.task.valid)
            self.ranks["first"] = ranks.raw.mean
            self.progress.initial = {"valid": metrics_of(ranks.raw), "valid_masked": metrics_of(ranks.masked)}
        while (reason := self.progress.stop_reason(self.settings)) is None:
            self._epoch()
        self.liveness.trained()
        return reason

    def test(self) -> UserRanks:
        """Ranks of the test targets under the best epoch's weights."""
        self.checkpoint.load_best(self.progress.best_epoch, self.model)
        return self.rank_users(self.task.test)

    def certificate(self) -> Certificate:
        """Proof of life of the weights that were tested; asked after `test`."""
        return self.liveness.certificate(float(np.mean(self.ranks["best"] != self.ranks["first"])))

    def forward(self, batch: Batch) -> StepLoss:
        """The loss of a batch, in the run's precision."""
        with self.accelerator.autocast():
            return self.model(batch.to(self.device))  # type: ignore[no-any-return]

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of `objective`; all processes learn where a chunk does not fit into memory."""
        encoder, short = self.model.encoder, ""
        try:
            self.accelerator.backward(objective)
        except Exception as error:
            # before the chunks, other processes wait in an exchange: they must be ended, not told
            told = world_size() == 1 or encoder.local_part
            if not (encoder.shrinks and out_of_memory(error) and told):
                raise
            short = str(error) or "out of memory"
        if encoder.shrinks and any_process(bool(short), self.device):
            raise ShortOfMemoryError(short or "another process ran out of memory")

    def optimise(self) -> None:
        """One optimiser step on the gradients that have been gathered, all processes together."""
        average_gradients(self.trained)
        if self.settings.clip_norm:
            self.accelerator.clip_grad_norm_(self.trained, self.settings.clip_norm)
        self.optimiser.step()
        if not self.optimiser.step_was_skipped:  # as with fp16, where gradients overflow now and then
            self.progress.step += 1
            self.model.method.after_step(self.progress.step)
        self.optimiser.zero_grad()

    def within_memory(self, action: Callable[[], T]) -> T:
        """Do `action`; where a chunk of texts does not fit into memory, again with smaller chunks.

        Only where all processes know of it: whoever tried again alone would wait for the others for ever.
        """
        if self.model.encoder.inputs.lengths is None:  # no texts, no chunks: nothing to remember either
            return action()
        while True:
            random = _random_state(self.device)
            try:
                return action()
            except ShortOfMemoryError:
                if not self.model.encoder.halve():
                    raise
            # outside the handler, where the error no longer holds on to tensors
            self.optimiser.zero_grad()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            _set_random_state(random, self.device)
            self.say(f"out of memory: going on with chunks of {self.model.encoder.chunk_tokens} tokens")

    def rank_users(self, rows: Rows) -> UserRanks:
        """Ranks of the targets of `rows` under the weights as they are."""
        data, start = self.task.sequences, self.task.history_start
        return self.within_memory(lambda: evaluate(self.model, data, rows, start, self.device, self._rank))

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
        if progress.candidates <= self.settings.positive_in_denominator:
            raise NotAliveError(
                f"no prediction of epoch {epoch} had a negative, so that nothing was learnt: with "
                f"candidates={self.settings.candidates} and batch_size={self.settings.batch_size} no batch "
                "has another user's target that is another item; raise batch_size or take "
                "candidates=catalogue."
            )
        with self.memory.phase("eval"), self.clock.phase("eval"):
            ranks = self.rank_users(self.task.valid)
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
        progress.chunk_tokens = self.model.encoder.chunk_tokens
        progress.halvings = self.model.encoder.halvings
        value = (row.valid if self.settings.select == "raw" else row.valid_masked)[SELECT]
        if better := value > progress.best_value:
            progress.best_epoch, progress.best_value = epoch, value
            self.ranks["best"] = ranks.raw.mean
        with self.clock.phase("save"):
            self._save(better)
        row.save_seconds = seconds["save"]
        self.say(str(self._line(row)))

    def _train(self, epoch: int) -> tuple[float, float]:
        """One epoch: mean loss and mean number of softmax terms of a prediction."""
        torch.manual_seed(((self.seed * 100_003 + epoch) * 1_009 + self._rank) % 2**63)
        self.model.train()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # [loss, terms, encodings]
        batches = EpochBatches(
            self.task.train, self.task.sequences, self.settings, self.seed, epoch, self._rank, world_size()
        )
        encoder, steps = self.model.encoder, -(-len(batches) // self.settings.accumulation)
        before = encoder.encoded
        bar = tqdm(
            batches.steps(),
            f"epoch {epoch}",
            steps,
            leave=False,
            unit="step",
            disable=None if self._rank == 0 else True,
        )
        for members in bar:
            sums[:2] += self.within_memory(lambda members=members: self._gradients(members))  # type: ignore[misc]
            self.optimise()
        sums[2] = encoder.encoded - before
        if world_size() > 1:
            dist.all_reduce(sums)
        self.progress.encodings = int(sums[2])
        loss, terms = (sums[:2] / int(self.task.train.predictions.sum())).tolist()
        return loss, terms

    def _replays(self) -> bool:
        """Whether a step does the same operations each time, alone on a GPU, so that it can be recorded."""
        settings, model = self.settings, self.model
        return (
            settings.replay == "auto"
            and self.device.type == "cuda"
            and world_size() == 1
            and self.accelerator.scaler is None
            and type(model.method).replayable
            and model.encoder.inputs.lengths is None
            and settings.encode != "occurrences"
        )

    def _gradients(self, members: list[Batch]) -> Tensor:
        """Leave the gradients of a step in the parameters: -> sums of loss and of softmax terms, `[2]`."""
        if self.graphs is not None:
            (batch,) = members
            encoder, before = self.model.encoder, self.model.encoder.encoded
            sums = self.graphs.run(batch)
            encoder.encoded = before + len(batch.share.items)  # fillers and recording are no work
            return sums
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for batch in members:
            sums += self._add_gradients(batch, len(members))
        return sums

    def _add_gradients(self, batch: Batch, of: int = 1) -> Tensor:
        """Add the gradients of `batch`, one `of` several of a step: -> its sums, `[2]` fp64."""
        step = self.forward(batch)
        self.backward(step.objective / of)
        return torch.stack([step.loss_sum.double(), step.candidates_sum.double()])

    def _line(self, row: Epoch) -> EpochLine:
        """What a person watching wants to know after an epoch."""
        settings, progress = self.settings, self.progress
        spent = sum(e.train_seconds + e.eval_seconds + e.save_seconds for e in progress.curve) / len(
            progress.curve
        )
        most = settings.epochs - row.epoch
        since = row.epoch - progress.best_epoch
        least = min(most, settings.patience - since) if settings.patience else most
        return EpochLine(
            row.epoch, settings.epochs, row.loss, row.valid[SELECT], row.valid_masked[SELECT],
            progress.best_epoch, row.train_seconds, row.eval_seconds, least * spent, most * spent,
        )  # fmt: skip

    def _save(self, better: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        weights = trained_part(self.model)
        scaler = self.accelerator.scaler
        state = {
            "weights": weights,
            "optimiser": self.optimiser.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "progress": {**asdict(self.progress), "curve": [row.model_dump() for row in self.progress.curve]},
            "ranks": {name: torch.from_numpy(value) for name, value in self.ranks.items()},
        }
        self.checkpoint.save(state, self.progress.best_epoch, weights if better else None)

    def _resume(self) -> None:
        state = self.checkpoint.load(self.model)
        if state is None:
            return
        self.optimiser.load_state_dict(state["optimiser"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        saved = state["progress"]
        self.progress = Progress(**{**saved, "curve": [Epoch(**row) for row in saved["curve"]]})
        self.ranks = {name: value.numpy() for name, value in state["ranks"].items()}
        self.model.encoder.chunk_tokens = self.progress.chunk_tokens
        self.model.encoder.halvings = self.progress.halvings
        self.say(f"going on after epoch {self.progress.epoch} of {self.checkpoint.folder}")


def parameter_groups(model: Recommender, lr: float) -> list[dict[str, Any]]:
    """The method's groups, and one for SASRec and the id embedding."""
    own = {id(parameter) for parameter in model.method.parameters()}
    shared: list[Tensor] = [parameter for parameter in model.parameters() if id(parameter) not in own]
    own_groups = [{**group, "params": list(group["params"])} for group in model.method.param_groups(lr)]
    return [*own_groups, {"params": shared, "lr": lr}]


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
