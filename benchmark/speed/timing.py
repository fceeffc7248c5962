"""Clocks, the parts of a step or of a validation pass, and the machine's matrix rate.

The code that is measured contains no clock: the methods `embed`, `users` and `backward` are wrapped while
something is measured. In the backward pass a part begins where the gradient of its output is complete.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmark.speed.record import DATA, Timed
from benchmark.train.loop import Trainer

Enter = Callable[[str], None]
"""Called with the name of the part that begins now; the part before ends."""
Reading = tuple[Any, float]
"""Wall time, or an event on the GPU, and CPU seconds of the process."""
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns: large enough that the rate rises no further, small enough to take a second in all."""
PRODUCTS = {"cpu": 4, "cuda": 30}
WARM_UP_PRODUCTS = {"cpu": 1, "cuda": 10}
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a run -> type of the matrices."""


class Clock:
    """Readings of the time, on a GPU by events in its stream, so that host and GPU do not wait.

    Where the host feeds the GPU too slowly, the part that was fed late takes the time.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def read(self) -> Reading:
        """A reading of now, for `between`."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            return event, time.process_time()
        return time.perf_counter(), time.process_time()

    def between(self, begin: Reading, end: Reading) -> tuple[float, float]:
        """Wall and CPU seconds between two readings. Waits until the GPU has passed both."""
        cpu = end[1] - begin[1]
        if self.device.type == "cuda":
            end[0].synchronize()
            return begin[0].elapsed_time(end[0]) / 1e3, cpu
        return end[0] - begin[0], cpu


class PartTimer:
    """Time by part: each part lasts until the next one begins."""

    def __init__(self, clock: Clock, first: str) -> None:
        self.clock, self.part = clock, first
        self.ends: list[tuple[str, Reading]] = []
        self.begin = clock.read()

    def enter(self, part: str) -> None:
        """End the current part and begin `part`."""
        self.ends.append((self.part, self.clock.read()))
        self.part = part

    def close(self) -> None:
        """End the last part."""
        self.ends.append((self.part, self.clock.read()))

    def sums(self, parts: tuple[str, ...]) -> dict[str, tuple[float, float]]:
        """Wall and CPU seconds of each of `parts`, in their order; zeros where there was none."""
        sums = dict.fromkeys(parts, (0.0, 0.0))
        begin = self.begin
        for part, end in self.ends:
            wall, cpu = self.clock.between(begin, end)
            sums[part] = (sums[part][0] + wall, sums[part][1] + cpu)
            begin = end
        return sums


def time_products(device: torch.device, precision: str) -> Timed:
    """Time `x w^T` of square matrices, `PRODUCTS` times after `WARM_UP_PRODUCTS` that are not timed."""
    size, warm_up, count = (of[device.type] for of in (PRODUCT_SIZE, WARM_UP_PRODUCTS, PRODUCTS))
    x, w = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(x)
    clock, readings = Clock(device), []
    for number in range(warm_up + count):
        if number >= warm_up:
            readings.append(clock.read())
        torch.mm(x, w.T, out=out)  # [n, n] x [n, n] -> [n, n]
    readings.append(clock.read())
    timed = Timed()
    for begin, end in pairwise(readings):
        timed.add(*clock.between(begin, end))
    del x, w, out
    if device.type == "cuda":
        torch.cuda.empty_cache()  # cached memory would count as the run's
    return timed


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace the attribute or method `name` of the object `owner` by `value`."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextlib.contextmanager
def training_parts(trainer: Trainer, enter: Enter) -> Iterator[None]:
    """Call `enter` at the begin of each of `STEP_PARTS` except the first `data` and the optimiser."""
    model = trainer.model
    current = DATA

    def begin(part: str) -> None:
        nonlocal current
        current = part
        enter(part)

    def forward(part: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*arguments: Any) -> Tensor:
            begin(f"{part} forward")
            out = run(*arguments)
            begin("loss forward")
            if out.requires_grad:
                out.register_hook(lambda _: begin(f"{part} backward"))  # type: ignore[no-untyped-call]
            return out

        return wrapped

    def backward(run: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*arguments: Any) -> None:
            begin("loss backward")
            run(*arguments)
            begin(DATA)

        return wrapped

    def switch(before: str, after: str) -> Callable[..., None]:
        return lambda *_: begin(after) if current == before else None

    # A forward pass of the method during the backward pass recomputes a chunk whose graph was not kept. It
    # ends with an exception of torch as soon as all that the gradients need is there: hence `always_call`.
    method = model.method
    recompute = method.register_forward_pre_hook(switch("encode backward", "encode again"))
    recomputed = method.register_forward_hook(switch("encode again", "encode backward"), always_call=True)
    try:
        with (
            patched(trainer.replay, "enabled", False),  # a replayed step calls none of these methods
            patched(model, "embed", forward("encode", model.embed)),
            patched(model, "users", forward("sasrec", model.users)),
            patched(trainer.retry, "backward", backward(trainer.retry.backward)),
        ):
            yield
    finally:
        recompute.remove()
        recomputed.remove()


@contextlib.contextmanager
def evaluation_parts(trainer: Trainer, enter: Enter) -> Iterator[None]:
    """Call `enter` at the begin of each of `EVALUATION_PARTS`; the caller begins with `rank`."""
    model = trainer.model

    def timed(part: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*arguments: Any) -> Tensor:
            enter(part)
            out = run(*arguments)
            enter("rank")
            return out

        return wrapped

    with (
        patched(model, "embed", timed("encode", model.embed)),
        patched(model, "users", timed("sasrec", model.users)),
    ):
        yield
