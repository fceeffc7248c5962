"""Which part of a step or of a validation pass is running, told from outside, at the seams of the model.

The code that is measured knows nothing of it: the seams (`embed`, `users`, `backward`) are wrapped while
someone watches. In the backward pass a part begins where the gradient of what it handed on is complete.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmark.speed.record import DATA, Timed
from benchmark.train.loop import Trainer

Enter = Callable[[str], None]
"""Called with the name of the part that begins now, and so ends the one before."""
Reading = tuple[Any, float]
"""Wall time, or an event on the GPU, and CPU seconds of the process."""


class Clock:
    """Readings of the time, on the GPU's own line where there is one: nobody waits for anybody.

    A step that the host feeds too slowly shows the wait in the part that was fed too late.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def read(self) -> Reading:
        """Now: a reading for `between`."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            return event, time.process_time()
        return time.perf_counter(), time.process_time()

    def between(self, begin: Reading, end: Reading) -> tuple[float, float]:
        """Wall and CPU seconds from one reading to a later one. Waits until both are past."""
        cpu = end[1] - begin[1]
        if self.device.type == "cuda":
            end[0].synchronize()
            return begin[0].elapsed_time(end[0]) / 1e3, cpu
        return end[0] - begin[0], cpu


class Laps:
    """Time by part, from edge to edge: nothing falls between two parts."""

    def __init__(self, clock: Clock, first: str) -> None:
        self.clock, self.part = clock, first
        self.edges: list[tuple[str, Reading]] = []
        self.begin = clock.read()

    def enter(self, part: str) -> None:
        """From now on it is `part`."""
        self.edges.append((self.part, self.clock.read()))
        self.part = part

    def close(self) -> None:
        """The last part ends now."""
        self.edges.append((self.part, self.clock.read()))

    def sums(self, parts: tuple[str, ...]) -> dict[str, tuple[float, float]]:
        """Wall and CPU seconds of each of `parts`, in their order; zeros where there was none."""
        found = dict.fromkeys(parts, (0.0, 0.0))
        begin = self.begin
        for part, end in self.edges:
            wall, cpu = self.clock.between(begin, end)
            found[part] = (found[part][0] + wall, found[part][1] + cpu)
            begin = end
        return found


def add(timed: dict[str, Timed], sums: dict[str, tuple[float, float]]) -> None:
    """One more measurement of each part."""
    for part, (wall, cpu) in sums.items():
        one = timed.setdefault(part, Timed())
        one.seconds.append(wall)
        one.cpu_seconds.append(cpu)


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let the object `owner` have `value` in place of its attribute or method `name`."""
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
    """Tell `enter` of each part of `STEP_PARTS` that begins, but for the first, `data`, and the optimiser."""
    model = trainer.model
    now = DATA

    def begin(part: str) -> None:
        nonlocal now
        now = part
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

    def again(before: str, after: str) -> Callable[..., None]:
        return lambda *_: begin(after) if now == before else None

    # forward passes of the method while gradients flow are those of chunks whose graph was not kept; they end
    # with an error of torch's own as soon as all is there that the gradients need
    method = model.method
    replay = method.register_forward_pre_hook(again("encode backward", "encode again"))
    done = method.register_forward_hook(again("encode again", "encode backward"), always_call=True)
    try:
        with (
            patched(trainer.replay, "enabled", False),  # a replayed step has no parts
            patched(model, "embed", forward("encode", model.embed)),
            patched(model, "users", forward("sasrec", model.users)),
            patched(trainer.retry, "backward", backward(trainer.retry.backward)),
        ):
            yield
    finally:
        replay.remove()
        done.remove()


@contextlib.contextmanager
def evaluation_parts(trainer: Trainer, enter: Enter) -> Iterator[None]:
    """Tell `enter` of each part of `EVALUATION_PARTS` that begins. Whoever calls begins with `rank`."""
    model = trainer.model

    def watched(part: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*arguments: Any) -> Tensor:
            enter(part)
            out = run(*arguments)
            enter("rank")
            return out

        return wrapped

    with (
        patched(model, "embed", watched("encode", model.embed)),
        patched(model, "users", watched("sasrec", model.users)),
    ):
        yield
