"""Time and count training and evaluation of one trainer, in this process.

The code that is measured contains no clock: methods of the trainer and its model are wrapped while something
is measured. In the backward pass a part begins where the gradient of its output is complete.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import psutil
import torch
from torch import Tensor

from benchmark.model.items import Batch
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
from benchmark.train.batches import EpochBatches
from benchmark.train.loop import Trainer
from methods.errors import UserError

COUNTED_STEPS = 10
"""Steps that are counted unless a whole epoch is."""
PROFILED_STEPS = 3
"""Steps whose kernels are counted."""
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns: large enough that the rate rises no further, small enough to take a second in all."""
PRODUCTS = {"cpu": (1, 4), "cuda": (10, 30)}
"""Products before the clock starts, and products that are timed."""
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a run -> type of the matrices."""
Enter = Callable[[str], None]
"""Called with the name of the part that begins now; the part before ends."""


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
        steps = _StepTimer(trainer, amounts, variant)
        try:
            _take_steps(trainer, epochs, steps.begin, steps.end)
        finally:
            steps.write()
        for epoch in itertools.islice(epochs, amounts.epochs):
            timer = PartTimer(trainer.device, DATA)
            trainer.train_epoch(epoch)
            timer.enter(DATA)
            variant.epoch.add(*timer.total())
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
        count = 0 if amounts.epochs else min(amounts.steps, COUNTED_STEPS)
        variant.counted = count_training(trainer, count, next(epochs))
        variant.counted.kernels = _count_kernels(trainer, min(amounts.steps, PROFILED_STEPS), next(epochs))
        variant.counted_evaluation = count_evaluation(trainer)


class PartTimer:
    """Time by part: each part lasts until the next one begins.

    Readings become seconds only when they are asked for. On a GPU they are events in its stream, so that host
    and GPU do not wait; where the host feeds the GPU too slowly, the part that was fed late takes the time.
    """

    def __init__(self, device: torch.device, first: str) -> None:
        self.device = device
        self.readings: list[tuple[str, Any, float]] = []
        """Part that begins, wall time or event, CPU seconds of the process."""
        self.enter(first)

    def enter(self, part: str) -> None:
        """End the current part and begin `part`, which lasts until the next call."""
        now: Any = time.perf_counter()
        if self.device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            now.record(torch.cuda.current_stream(self.device))
        self.readings.append((part, now, time.process_time()))

    def laps(self) -> Iterator[tuple[str, float, float]]:
        """Part, wall and CPU seconds from each call of `enter` to the next. Waits for the GPU."""
        for (part, begin, cpu_begin), (_, end, cpu_end) in itertools.pairwise(self.readings):
            if self.device.type == "cuda":
                end.synchronize()
                yield part, begin.elapsed_time(end) / 1e3, cpu_end - cpu_begin
            else:
                yield part, end - begin, cpu_end - cpu_begin

    def total(self) -> tuple[float, float]:
        """Wall and CPU seconds of all parts."""
        _, walls, cpus = zip(*self.laps(), strict=True)
        return sum(walls), sum(cpus)

    def add_to(self, times: dict[str, Timed], parts: Iterable[str]) -> None:
        """Add the sums of each of `parts` to `times`, zeros where there was none."""
        laps = list(self.laps())
        for part in parts:
            own = [lap for lap in laps if lap[0] == part]
            times.setdefault(part, Timed()).add(sum(lap[1] for lap in own), sum(lap[2] for lap in own))


def _products(trainer: Trainer) -> dict[str, Timed]:
    """Precision -> times of large products in it, for the run's precision and for fp32."""
    precisions = dict.fromkeys((trainer.precision, "no"))
    return {precision: _time_products(trainer.device, precision) for precision in precisions}


def _time_products(device: torch.device, precision: str) -> Timed:
    """Time `x w^T` of square matrices."""
    size, (warm_up, count) = PRODUCT_SIZE[device.type], PRODUCTS[device.type]
    x, w = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    out, timer = torch.empty_like(x), PartTimer(device, "")
    for _ in range(warm_up + count):
        torch.mm(x, w.T, out=out)  # [n, n] x [n, n] -> [n, n]
        timer.enter("")
    timed = Timed()
    for _, wall, cpu in list(timer.laps())[warm_up:]:
        timed.add(wall, cpu)
    del x, w, out
    if device.type == "cuda":
        torch.cuda.empty_cache()  # cached memory would count as the run's
    return timed


class _EndOfMeasurementError(Exception):
    """Ends an epoch early."""


def _take_steps(
    trainer: Trainer,
    epochs: Iterable[int],
    begin: Callable[[], Enter | None],
    end: Callable[[int], bool],
) -> None:
    """Train in the trainer's own loop until `end` returns true after a step or `epochs` are over.

    `begin` is called where a step begins and returns what is to be called where each part of the step begins;
    None: the step runs without instruments. `end` gets the number of batches of the step.
    """
    run_step, enter = trainer.step, None

    def step(batches: Sequence[Batch]) -> Tensor:
        nonlocal enter
        with training_parts(trainer, enter) if enter else nullcontext():
            sums = run_step(batches)
        if end(sum(batch.members for batch in batches)):
            raise _EndOfMeasurementError
        enter = begin()
        return sums

    with patch.object(trainer, "step", step), suppress(_EndOfMeasurementError):
        for epoch in epochs:
            enter = begin()
            trainer.train_epoch(epoch)


class _StepTimer:
    """Times steps: after the warm-up, whole steps and steps by part in turn."""

    def __init__(self, trainer: Trainer, amounts: Amounts, variant: Variant) -> None:
        self.trainer, self.amounts, self.variant = trainer, amounts, variant
        self.encoder, self.deadline = trainer.model.encoder, time.perf_counter() + amounts.limit
        self.finished = 0
        self.whole: list[PartTimer] = []
        self.by_part: list[PartTimer] = []

    def begin(self) -> Enter | None:
        """Start the clock of a step."""
        self.encoded, self.halvings = self.encoder.encoded, self.encoder.halvings
        warm = self.finished >= self.amounts.warm_up
        self.split = self.amounts.detail and warm and len(self.by_part) < len(self.whole)
        self.timer = PartTimer(self.trainer.device, DATA)
        return self.timer.enter if self.split else None

    def end(self, batches: int) -> bool:
        """Stop the clock; whether enough steps are timed or the time limit is over."""
        self.timer.enter(DATA)
        # a step that was repeated with smaller chunks is not comparable
        if self.finished >= self.amounts.warm_up and self.encoder.halvings == self.halvings:
            (self.by_part if self.split else self.whole).append(self.timer)
            if not self.split:
                self.variant.batches.append(batches)
                self.variant.encoded.append(self.encoder.encoded - self.encoded)
        self.finished += 1
        timed = min(len(self.whole), len(self.by_part)) if self.amounts.detail else len(self.whole)
        return timed >= self.amounts.steps or bool(self.whole and time.perf_counter() > self.deadline)

    def write(self) -> None:
        """Write the seconds into the variant."""
        for timer in self.whole:
            self.variant.step.add(*timer.total())
        for timer in self.by_part:
            timer.add_to(self.variant.parts, STEP_PARTS)


def _time_evaluation(trainer: Trainer, amounts: Amounts, variant: Variant) -> None:
    for number in range(amounts.evaluation_warm_up + amounts.passes):
        timer = PartTimer(trainer.device, "rank")
        with evaluation_parts(trainer, timer.enter):
            trainer.rank_users(trainer.task.valid)
        timer.enter("rank")
        if number >= amounts.evaluation_warm_up:
            timer.add_to(variant.evaluation_parts, EVALUATION_PARTS)
            variant.evaluation.add(*timer.total())


def count_training(trainer: Trainer, steps: int, epoch: int) -> Counted:
    """Count `steps` optimiser steps from the beginning of `epoch`, or all of it where `steps` is 0."""
    taken: list[int] = []

    def end(batches: int) -> bool:
        counter.enter(DATA)
        taken.append(batches)
        return len(taken) == steps

    with counting(trainer.device, DATA) as counter:
        _take_steps(trainer, [epoch], lambda: counter.enter, end)
    return counter.counted(steps=len(taken), batches=sum(taken), whole_epoch=steps == 0)


def count_evaluation(trainer: Trainer) -> Counted:
    """Count one validation pass."""
    with counting(trainer.device, "rank") as counter, evaluation_parts(trainer, counter.enter):
        trainer.rank_users(trainer.task.valid)
    return counter.counted()


def _count_kernels(trainer: Trainer, steps: int, epoch: int) -> float | None:
    """Kernels that a step starts on the GPU, the mean of the first `steps` of `epoch`; None on a CPU."""
    if trainer.device.type != "cuda":
        return None
    from torch.profiler import DeviceType, ProfilerActivity, profile

    taken: list[int] = []

    def end(batches: int) -> bool:
        taken.append(batches)
        return len(taken) == steps

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        _take_steps(trainer, [epoch], lambda: None, end)
    # copies, fills and the optimiser's own mark are no kernels
    others = ("Memcpy", "Memset", "Optimizer.")
    events = [event.name for event in profiler.events() or () if event.device_type == DeviceType.CUDA]
    return sum(not name.startswith(others) for name in events) / len(taken)


@contextmanager
def _parts_of(
    owner: Any, name: str, enter: Enter, before: str, after: str, backward: str | None = None
) -> Iterator[None]:
    """The method `name` of `owner` enters `before` and `after` it, and `backward` once the gradient of its
    result is complete."""
    run = getattr(owner, name)

    def wrapped(*arguments: Any) -> Any:
        enter(before)
        out = run(*arguments)
        enter(after)
        if backward and out.requires_grad:
            out.register_hook(lambda _: enter(backward))
        return out

    with patch.object(owner, name, wrapped):
        yield


@contextmanager
def training_parts(trainer: Trainer, enter: Enter) -> Iterator[None]:
    """Call `enter` at the begin of each of `STEP_PARTS` of a step except the first `data`."""
    model, retry = trainer.model, trainer.retry
    current = DATA

    def begin(part: str) -> None:
        nonlocal current
        current = part
        enter(part)

    def switch(before: str, after: str) -> Callable[..., None]:
        return lambda *_: begin(after) if current == before else None

    # A forward pass of the method during the backward pass recomputes a chunk whose graph was not kept. It
    # ends with an exception of torch as soon as all that the gradients need is there: hence `always_call`.
    method = model.method
    recompute = method.register_forward_pre_hook(switch("encode backward", "encode again"))
    recomputed = method.register_forward_hook(switch("encode again", "encode backward"), always_call=True)
    try:
        with (
            patch.object(trainer.replay, "enabled", False),  # a replayed step calls none of these methods
            _parts_of(model, "embed", begin, "encode forward", "loss forward", "encode backward"),
            _parts_of(model, "users", begin, "sasrec forward", "loss forward", "sasrec backward"),
            _parts_of(retry, "backward", begin, "loss backward", DATA),
            _parts_of(retry, "run", begin, DATA, OPTIMISER),
        ):
            yield
    finally:
        recompute.remove()
        recomputed.remove()


@contextmanager
def evaluation_parts(trainer: Trainer, enter: Enter) -> Iterator[None]:
    """Call `enter` at the begin of each of `EVALUATION_PARTS`; the caller begins with `rank`."""
    with (
        _parts_of(trainer.model, "embed", enter, "encode", "rank"),
        _parts_of(trainer.model, "users", enter, "sasrec", "rank"),
    ):
        yield
