"""Parts of an optimiser step: learning rate, averaged weights, retry where memory is short, graph replay."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from benchmark.config import Settings
from benchmark.measure import out_of_memory
from benchmark.model.items import Batch, ItemEncoder
from benchmark.model.parallel import ShortOfMemoryError, any_process, world_size
from benchmark.model.recommender import Recommender
from benchmark.train.graphs import StepGraphs

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def make_optimiser(model: Recommender, settings: Settings, fused: bool) -> torch.optim.AdamW:
    """AdamW over the method's groups and one for SASRec and the id embedding.

    Without weight decay it is Adam. With it each group is split: vectors (biases, the weights of LayerNorm)
    are not decayed.
    """
    groups = parameter_groups(model, settings.learning_rate)
    if settings.weight_decay:
        groups = [part for group in groups for part in _split(group, settings.weight_decay)]
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=fused)


def parameter_groups(model: Recommender, lr: float) -> list[dict[str, Any]]:
    """The method's groups, and one for SASRec and the id embedding."""
    own = {id(parameter) for parameter in model.method.parameters()}
    shared: list[Tensor] = [parameter for parameter in model.parameters() if id(parameter) not in own]
    own_groups = [{**group, "params": list(group["params"])} for group in model.method.param_groups(lr)]
    return [*own_groups, {"params": shared, "lr": lr}]


def _split(group: dict[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in group["params"] if parameter.ndim > 1]
    vectors = [parameter for parameter in group["params"] if parameter.ndim <= 1]
    parts = ({**group, "params": matrices, "weight_decay": weight_decay}, {**group, "params": vectors})
    return [part for part in parts if part["params"]]


class LearningRate:
    """Sets the learning rate of each optimiser step; a group's own rate is what the schedule scales."""

    def __init__(
        self, optimiser: torch.optim.Optimizer, settings: Settings, total_steps: Callable[[], int]
    ) -> None:
        """`total_steps`: steps of all epochs, which are only counted where the schedule depends on them."""
        self.optimiser, self.cosine = optimiser, settings.schedule == "cosine"
        self.full = [group["lr"] for group in optimiser.param_groups]
        self.changes = self.cosine or settings.warmup_epochs > 0
        self.last = total_steps() if self.changes else 0
        self.warmup = self.last * settings.warmup_epochs / settings.epochs

    def factor(self, step: int) -> float:
        """What the learning rate of optimiser step `step`, from 1, is multiplied by."""
        if step < self.warmup:
            return step / self.warmup
        if not self.cosine or self.last <= self.warmup:
            return 1.0
        done = min(1.0, (step - self.warmup) / (self.last - self.warmup))
        return (1 + math.cos(math.pi * done)) / 2

    def set(self, step: int) -> None:
        """Prepare the optimiser for step `step`, from 1."""
        if self.changes:
            factor = self.factor(step)
            for group, full in zip(self.optimiser.param_groups, self.full, strict=True):
                group["lr"] = full * factor


class AverageWeights:
    """An exponential moving average of the trained weights; with decay 0 it is off, and costs nothing.

    The decay rises from 0.1 to its value over the first steps, min(decay, (1 + n) / (10 + n)), so that the
    random starting values are soon forgotten.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.values = [parameter.detach().clone() for parameter in self.parameters] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step`, from 1."""
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights inside of this."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for value, parameter in zip(self.values, self.parameters, strict=False):  # no values where it is off
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)

    def state(self) -> list[Tensor]:
        """For a checkpoint."""
        return self.values

    def load(self, values: Sequence[Tensor]) -> None:
        """Go on from a checkpoint's `state`."""
        for value, saved in zip(self.values, values, strict=True):
            value.copy_(saved)


class MemoryRetry:
    """Runs an action, and again with smaller chunks and the same random numbers after `ShortOfMemoryError`.

    All processes learn of a shortage before any of them raises it: a process that tried again alone would
    wait for the others for ever.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        accelerator: Accelerator,
        zero_grad: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        """`zero_grad` discards the gradients of a failed attempt."""
        self.encoder, self.accelerator, self.zero_grad, self.log = encoder, accelerator, zero_grad, log
        self.device: torch.device = accelerator.device

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`. Raises the error of its last attempt where no smaller chunk is left."""
        if self.encoder.inputs.lengths is None:  # no texts, no chunks: no random state to keep either
            return action()
        while True:
            random_state = _random_state(self.device)
            try:
                return action()
            except ShortOfMemoryError:
                if not self.encoder.halve():
                    raise
            # outside the handler, where the error no longer holds on to tensors
            self.zero_grad()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            _set_random_state(random_state, self.device)
            self.log(f"out of memory: going on with chunks of {self.encoder.chunk_tokens} tokens")

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of `objective` to the parameters.

        Raises `ShortOfMemoryError` in every process where a chunk did not fit into the memory of one.
        """
        encoder, shortage = self.encoder, ""
        try:
            self.accelerator.backward(objective)
        except Exception as error:
            # before the chunks, other processes wait in an exchange: they must be ended
            all_can_learn = world_size() == 1 or encoder.local_part
            if not (encoder.shrinks and out_of_memory(error) and all_can_learn):
                raise
            shortage = str(error) or "out of memory"
        if encoder.shrinks and any_process(bool(shortage), self.device):
            raise ShortOfMemoryError(shortage or "another process ran out of memory")


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


class Replay:
    """Adds up the gradients of a step's batches, from recorded graphs where the run allows it."""

    def __init__(
        self,
        model: Recommender,
        parameters: Sequence[nn.Parameter],
        accelerator: Accelerator,
        log: Callable[[str], None],
    ) -> None:
        self.model, self.parameters, self.log = model, parameters, log
        self.device: torch.device = accelerator.device
        settings = model.settings
        self.enabled = (
            settings.replay == "auto"
            and self.device.type == "cuda"
            and world_size() == 1
            and accelerator.scaler is None
            and type(model.method).replayable
            and model.encoder.inputs.lengths is None
            and settings.encode != "occurrences"  # only there has a step more than one `Batch`
        )
        """Whether a step executes the same operations each time, in one process on a GPU."""
        self.graphs: StepGraphs | None = None
        """The recorded graphs, from the first replayed step on."""

    def run(self, gradients: Callable[[Batch], Tensor], batches: Sequence[Batch]) -> Tensor:
        """Call `gradients`, which adds those of one batch to the parameters, or replay an earlier call.

        Returns the sum of its results, `[2]` fp64, to be read before the next call.
        """
        if not self.enabled:
            sums = torch.zeros(2, dtype=torch.float64, device=self.device)
            for batch in batches:
                sums += gradients(batch)
            return sums
        (batch,) = batches
        self.graphs = self.graphs or StepGraphs(gradients, self.parameters, self.device, self.log)
        encoder, before = self.model.encoder, self.model.encoder.encoded
        sums = self.graphs.run(batch)
        encoder.encoded = before + len(batch.share.items)  # fillers and recording encode nothing that counts
        return sums
