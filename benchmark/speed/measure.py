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
from benchmark.speed.timing import (
    PRODUCT_SIZE,
    Clock,
    PartTimer,
    Reading,
    evaluation_parts,
    patched,
    time_products,
    training_parts,
)
from benchmark.train.batches import EpochBatches
from benchmark.train.loop import Trainer
from methods.errors import UserError

COUNTED_STEPS = 10
"""Steps that are counted unless a whole epoch is."""
PROFILED_STEPS = 3
"""Steps whose kernels are counted."""


@dataclass(frozen=True)
class Amounts:
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
    """Whether parts, counts and the matrix rate are measured besides whole steps and passes."""

    def __post_init__(self) -> None:
        if min(self.steps, self.passes) < 1 or min(self.warm_up, self.epochs) < 0:
            raise UserError("--steps and --passes must be 1 or more, --warm-up and --epochs 0 or more.")


class _EndOfMeasurementError(Exception):
    """Ends an epoch early."""


def measure(trainer: Trainer, amounts: Amounts, variant: Variant) -> None:
    """Fill in the figures of `variant`; those measured before an exception stay."""
    task, settings, encoder = trainer.task, trainer.settings, trainer.model.encoder
    variant.batches_per_epoch = len(EpochBatches(task.train, task.sequences, settings, trainer.seed, epoch=1))
    variant.steps_per_epoch = -(-variant.batches_per_epoch // settings.accumulation)
    variant.predictions_per_epoch = int(task.train.predictions.sum())
    before = _products(trainer) if amounts.detail else {}
    variant.host_before = psutil.Process().memory_info().rss
    epochs = itertools.count(1)
    with trainer.memory.phase("train"):
        timer = _StepTimer(trainer, amounts, variant)
        try:
            timer.run(epochs)
        finally:
            timer.write()
        _time_epochs(trainer, amounts, variant, epochs)
    with trainer.memory.phase("eval"):
        _time_evaluation(trainer, amounts, variant)
    variant.peak_memory = trainer.memory.peaks
    if encoder.inputs.lengths is not None:
        variant.chunk_tokens, variant.halvings = encoder.chunk_tokens, encoder.halvings
    if before:
        after, size = _products(trainer), PRODUCT_SIZE[trainer.device.type]
        rates = {
            precision: MatrixRate(dtype=precision, size=size, before=before[precision], after=timed)
            for precision, timed in after.items()
        }
        variant.matrix_rate = rates.pop(trainer.precision)
        variant.fp32_rate = rates.get("no")
        steps = 0 if amounts.epochs else min(amounts.steps, COUNTED_STEPS)
        variant.counted = count_training(trainer, steps, next(epochs))
        variant.counted.kernels = _count_kernels(trainer, min(amounts.steps, PROFILED_STEPS), next(epochs))
        variant.counted_evaluation = count_evaluation(trainer)


def _products(trainer: Trainer) -> dict[str, Timed]:
    """Precision -> large products in it, for the run's precision and for fp32."""
    return {
        precision: time_products(trainer.device, precision)
        for precision in dict.fromkeys((trainer.precision, "no"))
    }


@contextlib.contextmanager
def _observed(
    trainer: Trainer, optimiser: Callable[[], None], end: Callable[[Sequence[Batch]], None]
) -> Iterator[None]:
    """In each step, call `optimiser` once all gradients are there, and `end` with the batches after the step.

    `end` may raise `_EndOfMeasurementError`, which ends the context.
    """
    run_step, run_retry = trainer.step, trainer.retry.run

    def retry(action: Callable[[], Tensor]) -> Tensor:
        sums = run_retry(action)
        optimiser()
        return sums

    def step(batches: Sequence[Batch]) -> Tensor:
        with patched(trainer.retry, "run", retry):
            sums = run_step(batches)
        end(batches)
        return sums

    with patched(trainer, "step", step), contextlib.suppress(_EndOfMeasurementError):
        yield


def _count(batches: Sequence[Batch]) -> int:
    """Batches of a step over all processes."""
    return sum(batch.members for batch in batches)


class _StepTimer:
    """Time steps of the trainer's own loop: after the warm-up, whole steps and steps by part in turn.

    Readings become seconds only after the last step, since on a GPU that waits.
    """

    def __init__(self, trainer: Trainer, amounts: Amounts, variant: Variant) -> None:
        self.trainer, self.amounts, self.variant = trainer, amounts, variant
        self.clock, self.deadline = Clock(trainer.device), time.perf_counter() + amounts.limit
        self.finished = 0
        """Finished steps."""
        self.whole: list[tuple[Reading, Reading]] = []
        self.by_part: list[PartTimer] = []
        self.parts: PartTimer | None = None
        """Of the current step, where it is timed by part."""
        self.instruments = contextlib.ExitStack()

    def run(self, epochs: Iterator[int]) -> None:
        """Train until enough steps are timed or the time limit is over."""
        with self.instruments, _observed(self.trainer, self._enter_optimiser, self._end):
            for epoch in epochs:
                self._begin()
                self.trainer.train_epoch(epoch)
                self.instruments.close()  # those of a step that the epoch no longer had

    def _begin(self) -> None:
        encoder = self.trainer.model.encoder
        self.encoded, self.halvings = encoder.encoded, encoder.halvings
        self.parts = None
        warm = self.finished >= self.amounts.warm_up
        if self.amounts.detail and warm and len(self.by_part) < len(self.whole):
            self.parts = PartTimer(self.clock, DATA)
            self.instruments.enter_context(training_parts(self.trainer, self.parts.enter))
        self.begin = self.clock.read()

    def _enter_optimiser(self) -> None:
        if self.parts is not None:
            self.parts.enter(OPTIMISER)

    def _end(self, batches: Sequence[Batch]) -> None:
        """Keep the readings of the step that ends, and begin the next."""
        encoder, amounts, variant = self.trainer.model.encoder, self.amounts, self.variant
        end = self.clock.read()
        self.instruments.close()
        # a step that was repeated with smaller chunks is not comparable
        if self.finished >= amounts.warm_up and encoder.halvings == self.halvings:
            if self.parts is not None:
                self.parts.close()
                self.by_part.append(self.parts)
            else:
                self.whole.append((self.begin, end))
                variant.batches.append(_count(batches))
                variant.encoded.append(encoder.encoded - self.encoded)
        self.finished += 1
        timed = min(len(self.whole), len(self.by_part)) if amounts.detail else len(self.whole)
        if timed >= amounts.steps or (self.whole and time.perf_counter() > self.deadline):
            raise _EndOfMeasurementError
        self._begin()

    def write(self) -> None:
        """Write the seconds into the variant."""
        for begin, end in self.whole:
            self.variant.step.add(*self.clock.between(begin, end))
        for parts in self.by_part:
            _add(self.variant.parts, parts.sums(STEP_PARTS))


def _add(parts: dict[str, Timed], seconds: dict[str, tuple[float, float]]) -> None:
    for part, (wall, cpu) in seconds.items():
        parts.setdefault(part, Timed()).add(wall, cpu)


def _time_epochs(trainer: Trainer, amounts: Amounts, variant: Variant, epochs: Iterator[int]) -> None:
    clock = Clock(trainer.device)
    for epoch in itertools.islice(epochs, amounts.epochs):
        begin = clock.read()
        trainer.train_epoch(epoch)
        variant.epoch.add(*clock.between(begin, clock.read()))


def _time_evaluation(trainer: Trainer, amounts: Amounts, variant: Variant) -> None:
    clock = Clock(trainer.device)
    for number in range(amounts.evaluation_warm_up + amounts.passes):
        parts = PartTimer(clock, "rank")
        with evaluation_parts(trainer, parts.enter):
            trainer.rank_users(trainer.task.valid)
        parts.close()
        seconds = parts.sums(EVALUATION_PARTS)
        if number >= amounts.evaluation_warm_up:
            _add(variant.evaluation_parts, seconds)
            walls, cpus = zip(*seconds.values(), strict=True)
            variant.evaluation.add(sum(walls), sum(cpus))


class _StepLimit:
    """Counts steps and their batches, and ends the epoch after `limit` steps; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self.limit, self.steps, self.batches = limit, 0, 0

    def add(self, batches: Sequence[Batch]) -> None:
        """Count one step."""
        self.steps += 1
        self.batches += _count(batches)
        if self.steps == self.limit:
            raise _EndOfMeasurementError


def count_training(trainer: Trainer, steps: int, epoch: int) -> Counted:
    """Count `steps` optimiser steps from the beginning of `epoch`, or all of it where `steps` is 0."""
    taken = _StepLimit(steps)

    def end(batches: Sequence[Batch]) -> None:
        counter.enter(DATA)
        taken.add(batches)

    with (
        counting(trainer.device, DATA) as counter,
        training_parts(trainer, counter.enter),
        _observed(trainer, lambda: counter.enter(OPTIMISER), end),
    ):
        trainer.train_epoch(epoch)
    return counter.counted(steps=taken.steps, batches=taken.batches, whole_epoch=steps == 0)


def _count_kernels(trainer: Trainer, steps: int, epoch: int) -> float | None:
    """Kernels that a step starts on the GPU, the mean of the first `steps` of `epoch`; None on a CPU."""
    if trainer.device.type != "cuda":
        return None
    from torch.profiler import DeviceType, ProfilerActivity, profile

    taken = _StepLimit(steps)
    with (
        profile(activities=[ProfilerActivity.CUDA]) as profiler,
        _observed(trainer, lambda: None, taken.add),
    ):
        trainer.train_epoch(epoch)
    # copies, fills and the optimiser's own mark are no kernels
    others = ("Memcpy", "Memset", "Optimizer.")
    events = [event.name for event in profiler.events() or () if event.device_type == DeviceType.CUDA]
    return sum(not name.startswith(others) for name in events) / taken.steps


def count_evaluation(trainer: Trainer) -> Counted:
    """Count one validation pass."""
    with counting(trainer.device, "rank") as counter, evaluation_parts(trainer, counter.enter):
        trainer.rank_users(trainer.task.valid)
    return counter.counted()
