"""Time and count training and evaluation of one trainer, in this process."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil
from torch import Tensor

from benchmark.model.batch import Batch
from benchmark.speed.count import counting
from benchmark.speed.parts import Clock, Laps, Reading, add, evaluation_parts, patched, training_parts
from benchmark.speed.rate import SIZE, time_products
from benchmark.speed.record import (
    DATA,
    EVALUATION_PARTS,
    OPTIMISER,
    STEP_PARTS,
    Counted,
    MatrixRate,
    Timed,
    Variant,
)
from benchmark.train.batches import EpochBatches
from benchmark.train.loop import Trainer
from methods.errors import UserError

COUNTED_STEPS = 10
"""Steps that are counted where no whole epoch is."""
PROFILED_STEPS = 3
"""Steps whose kernels are counted."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    steps: int = 30
    warm_up: int = 5
    passes: int = 3
    epochs: int = 0
    """Whole epochs to time, after the steps."""
    evaluation_warm_up: int = 1
    """Validation passes before those that are timed."""
    limit: float = math.inf
    """Seconds of training after which no further step is taken."""
    detail: bool = True
    """Parts, counts and the matrix rate too; not only whole steps and passes."""

    def __post_init__(self) -> None:
        if min(self.steps, self.passes) < 1 or min(self.warm_up, self.epochs) < 0:
            raise UserError("--steps and --passes must be 1 or more, --warm-up and --epochs 0 or more.")


class _EnoughError(Exception):
    """Leaves an epoch."""


def measure(trainer: Trainer, plan: Plan, variant: Variant) -> None:
    """Fill in the figures of `variant`, as far as it comes."""
    task, settings, encoder = trainer.task, trainer.settings, trainer.model.encoder
    variant.batches_per_epoch = len(EpochBatches(task.train, task.sequences, settings, trainer.seed, epoch=1))
    variant.steps_per_epoch = -(-variant.batches_per_epoch // settings.accumulation)
    variant.predictions_per_epoch = int(task.train.predictions.sum())
    before = _products(trainer) if plan.detail else {}
    variant.host_before = psutil.Process().memory_info().rss
    epochs = itertools.count(1)
    with trainer.memory.phase("train"):
        steps = _Steps(trainer, plan, variant)
        try:
            steps.run(epochs)
        finally:
            steps.write()
        _time_epochs(trainer, plan, variant, epochs)
    with trainer.memory.phase("eval"):
        _time_evaluation(trainer, plan, variant)
    variant.peak_memory = trainer.memory.peaks
    if encoder.inputs.lengths is not None:
        variant.chunk_tokens, variant.halvings = encoder.chunk_tokens, encoder.halvings
    if before:
        after, size = _products(trainer), SIZE[trainer.device.type]
        rates = {
            precision: MatrixRate(dtype=precision, size=size, before=before[precision], after=timed)
            for precision, timed in after.items()
        }
        variant.matrix_rate = rates.pop(trainer.precision)
        variant.fp32_rate = rates.get("no")
        whole = 0 if plan.epochs else min(plan.steps, COUNTED_STEPS)
        variant.counted = count_training(trainer, whole, next(epochs))
        variant.counted.kernels = _count_kernels(trainer, min(plan.steps, PROFILED_STEPS), next(epochs))
        variant.counted_evaluation = count_evaluation(trainer)


def _products(trainer: Trainer) -> dict[str, Timed]:
    """Precision -> large products in it: those of the run, and those that stay in fp32."""
    return {
        precision: time_products(trainer.device, precision)
        for precision in dict.fromkeys((trainer.precision, "no"))
    }


@contextlib.contextmanager
def _watching(
    trainer: Trainer, optimiser: Callable[[], None], done: Callable[[Sequence[Batch]], None]
) -> Iterator[None]:
    """In each step of the trainer, call `optimiser` when all gradients are there, and `done` with the batches
    after the step; `done` may raise `_EnoughError`."""
    run_step, run_retry = trainer.step, trainer.retry.run

    def retry(action: Callable[[], Tensor]) -> Tensor:
        sums = run_retry(action)
        optimiser()
        return sums

    def step(batches: Sequence[Batch]) -> Tensor:
        with patched(trainer.retry, "run", retry):
            sums = run_step(batches)
        done(batches)
        return sums

    with patched(trainer, "step", step), contextlib.suppress(_EnoughError):
        yield


def _count(batches: Sequence[Batch]) -> int:
    return sum(batch.members for batch in batches)


class _Steps:
    """Steps of the trainer's own loop: some to warm up, then whole ones and ones by part in turn.

    Readings are turned into seconds when all is over: on a GPU that waits for it.
    """

    def __init__(self, trainer: Trainer, plan: Plan, variant: Variant) -> None:
        self.trainer, self.plan, self.variant = trainer, plan, variant
        self.clock, self.end = Clock(trainer.device), time.perf_counter() + plan.limit
        self.number = 0
        """Steps that are over."""
        self.whole: list[tuple[Reading, Reading]] = []
        self.by_part: list[Laps] = []
        self.laps: Laps | None = None
        """Of the step that runs, where it is taken by part."""
        self.watch = contextlib.ExitStack()

    def run(self, epochs: Iterator[int]) -> None:
        """Train until enough was timed, or the plan's time is over."""
        with self.watch, _watching(self.trainer, self._optimiser, self._done):
            for epoch in epochs:
                self._begin()
                self.trainer.train_epoch(epoch)
                self.watch.close()  # the step that was to come next came not

    def _begin(self) -> None:
        encoder = self.trainer.model.encoder
        self.encoded, self.halvings = encoder.encoded, encoder.halvings
        self.laps = None
        if self.plan.detail and self.number >= self.plan.warm_up and len(self.by_part) < len(self.whole):
            self.laps = Laps(self.clock, DATA)
            self.watch.enter_context(training_parts(self.trainer, self.laps.enter))
        self.begin = self.clock.read()

    def _optimiser(self) -> None:
        if self.laps is not None:
            self.laps.enter(OPTIMISER)

    def _done(self, batches: Sequence[Batch]) -> None:
        """A step is over: keep what was read, and go on to the next."""
        encoder, plan, variant = self.trainer.model.encoder, self.plan, self.variant
        end = self.clock.read()
        self.watch.close()
        # one that was taken again, with smaller chunks, is not like the others
        if self.number >= plan.warm_up and encoder.halvings == self.halvings:
            if self.laps is not None:
                self.laps.close()
                self.by_part.append(self.laps)
            else:
                self.whole.append((self.begin, end))
                variant.batches.append(_count(batches))
                variant.encoded.append(encoder.encoded - self.encoded)
        self.number += 1
        enough = min(len(self.whole), len(self.by_part) if plan.detail else plan.steps) >= plan.steps
        if enough or (self.whole and time.perf_counter() > self.end):
            raise _EnoughError
        self._begin()

    def write(self) -> None:
        """Put seconds into the variant."""
        for begin, end in self.whole:
            wall, cpu = self.clock.between(begin, end)
            self.variant.step.seconds.append(wall)
            self.variant.step.cpu_seconds.append(cpu)
        for laps in self.by_part:
            add(self.variant.parts, laps.sums(STEP_PARTS))


def _time_epochs(trainer: Trainer, plan: Plan, variant: Variant, epochs: Iterator[int]) -> None:
    clock = Clock(trainer.device)
    for epoch in itertools.islice(epochs, plan.epochs):
        begin = clock.read()
        trainer.train_epoch(epoch)
        wall, cpu = clock.between(begin, clock.read())
        variant.epoch.seconds.append(wall)
        variant.epoch.cpu_seconds.append(cpu)


def _time_evaluation(trainer: Trainer, plan: Plan, variant: Variant) -> None:
    clock = Clock(trainer.device)
    for number in range(plan.evaluation_warm_up + plan.passes):
        laps = Laps(clock, "rank")
        with evaluation_parts(trainer, laps.enter):
            trainer.rank_users(trainer.task.valid)
        laps.close()
        sums = laps.sums(EVALUATION_PARTS)
        if number >= plan.evaluation_warm_up:
            add(variant.evaluation_parts, sums)
            variant.evaluation.seconds.append(sum(wall for wall, _ in sums.values()))
            variant.evaluation.cpu_seconds.append(sum(cpu for _, cpu in sums.values()))


def count_training(trainer: Trainer, steps: int, epoch: int) -> Counted:
    """Count `steps` optimiser steps from the beginning of `epoch`, or all of it where `steps` is 0."""
    taken, counted_batches = 0, 0

    def done(batches: Sequence[Batch]) -> None:
        nonlocal taken, counted_batches
        taken, counted_batches = taken + 1, counted_batches + _count(batches)
        counter.enter(DATA)
        if taken == steps:
            raise _EnoughError

    with (
        counting(trainer.device, DATA) as counter,
        training_parts(trainer, counter.enter),
        _watching(trainer, lambda: counter.enter(OPTIMISER), done),
    ):
        trainer.train_epoch(epoch)
    return counter.counted(steps=taken, batches=counted_batches, whole_epoch=steps == 0)


def _count_kernels(trainer: Trainer, steps: int, epoch: int) -> float | None:
    """Kernels that a step starts on the GPU, the mean of the first `steps` of `epoch`; None on a CPU."""
    if trainer.device.type != "cuda":
        return None
    from torch.profiler import DeviceType, ProfilerActivity, profile

    taken = 0

    def done(_: Sequence[Batch]) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            raise _EnoughError

    with profile(activities=[ProfilerActivity.CUDA]) as seen, _watching(trainer, lambda: None, done):
        trainer.train_epoch(epoch)
    # copies, fills and the optimiser's own mark are no kernels
    others = ("Memcpy", "Memset", "Optimizer.")
    on_gpu = [event.name for event in seen.events() or () if event.device_type == DeviceType.CUDA]
    return sum(not name.startswith(others) for name in on_gpu) / taken


def count_evaluation(trainer: Trainer) -> Counted:
    """Count one validation pass."""
    with counting(trainer.device, "rank") as counter, evaluation_parts(trainer, counter.enter):
        trainer.rank_users(trainer.task.valid)
    return counter.counted()
