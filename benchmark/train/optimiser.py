"""The optimiser of a run: parameter groups, weight decay, the learning rate of a step, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.config import Settings
from benchmark.model.recommender import Recommender


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
