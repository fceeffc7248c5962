"""How fast training is on this machine: steps timed phase by phase, warm-up apart, median and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tabulate import tabulate

from benchmark.cell import Cell, resolve_cell
from benchmark.data.batches import Batch, EpochBatches, most_batches
from benchmark.measure import device_name
from benchmark.record import PeakMemory
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.evaluate import evaluate
from benchmark.train.loop import Trainer
from benchmark.wiring import build_trainer
from methods.errors import UserError

PHASES = ("data", "forward", "backward", "optimiser", "evaluation")


@dataclass
class Timing:
    """Seconds of each phase of each timed step, of evaluation passes, and the memory they took."""

    steps_per_epoch: int
    predictions_per_epoch: int
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    peaks: dict[str, PeakMemory] = field(default_factory=dict)

    @property
    def steps(self) -> list[float]:
        """Seconds of whole training steps."""
        return [sum(parts) for parts in zip(*(self.seconds[phase] for phase in PHASES[:-1]), strict=True)]


def speed(cell: Cell, steps: int, warm_up: int, passes: int) -> Iterator[str]:
    """Time `steps` training steps after `warm_up` ones, and `passes` evaluations; yields lines to print."""
    if min(steps, passes) < 1 or warm_up < 0:
        raise UserError("--steps and --passes must be 1 or more, --warm-up 0 or more.")
    resolved = resolve_cell(cell)
    with TemporaryDirectory() as folder:
        trainer, _ = build_trainer(resolved, Checkpoint(Path(folder)))
        threads = torch.get_num_threads()
        yield f"{cell}: {device_name(trainer.device)}, {threads} threads, precision {trainer.precision}"
        timing = measure(trainer, cell.seed, steps, warm_up, passes)
    yield table(timing)


def measure(trainer: Trainer, seed: int, steps: int, warm_up: int, passes: int) -> Timing:
    """Run and time. The device is synchronised at each edge, so phases do not overlap here."""
    task, settings = trainer.task, trainer.settings
    timing = Timing(most_batches(task.train, settings.batch_size), int(task.train.predictions.sum()))
    trainer.model.train()
    batches = _endless(trainer, seed)
    with trainer.memory.phase("train"):
        for number in range(warm_up + steps):
            edges = [_now(trainer.device)]
            batch = next(batches)
            edges.append(_now(trainer.device))
            loss = trainer.forward(batch).objective
            edges.append(_now(trainer.device))
            trainer.accelerator.backward(loss)
            edges.append(_now(trainer.device))
            trainer.optimise()
            edges.append(_now(trainer.device))
            if number >= warm_up:
                for phase, begin, end in zip(PHASES, edges[:-1], edges[1:], strict=False):
                    timing.seconds[phase].append(end - begin)
    with trainer.memory.phase("eval"):
        for number in range(passes + 1):
            begin = _now(trainer.device)
            evaluate(trainer.model, task.sequences, task.valid, task.history_start, trainer.device)
            if number:  # the first pass is the warm-up
                timing.seconds["evaluation"].append(_now(trainer.device) - begin)
    timing.peaks = trainer.memory.peaks
    return timing


def table(timing: Timing) -> str:
    """The figures as a table for the terminal."""
    rows: list[list[object]] = []
    for phase in PHASES[:-1]:
        rows.append([f"{phase} (ms a step)", *_spread(timing.seconds[phase], 1e3)])
    rows.append(["step (ms)", *_spread(timing.steps, 1e3)])
    rows.append(["epoch (s)", *_spread(timing.steps, timing.steps_per_epoch)])
    rows.append(["evaluation (s)", *_spread(timing.seconds["evaluation"], 1)])
    median = statistics.median(timing.steps) * timing.steps_per_epoch
    lines = [tabulate(rows, headers=["", "median", "least", "most"], floatfmt=".4g")]
    lines.append(f"{timing.predictions_per_epoch / median:,.0f} predictions a second in training")
    for phase, peak in timing.peaks.items():
        shown = ", ".join(f"{kind} {size / 2**20:,.0f} MiB" for kind, size in peak if size is not None)
        lines.append(f"peak memory, {phase}: {shown or 'not measurable here'}")
    return "\n".join(lines)


def _spread(seconds: list[float], scale: float) -> list[float]:
    return [scale * pick for pick in (statistics.median(seconds), min(seconds), max(seconds))]


def _endless(trainer: Trainer, seed: int) -> Iterator[Batch]:
    epoch = 0
    while True:
        epoch += 1
        yield from EpochBatches(trainer.task.train, trainer.task.sequences, trainer.settings, seed, epoch)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
