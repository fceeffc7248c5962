"""How fast training is on this machine: steps timed phase by phase, for one setting or for several of them.

Each variant is timed in a fresh process, so that peaks of memory, caches and an early end never leak into
the next one. What a cell computes once (hidden states, tokens) is computed before, in a process of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import psutil
import torch

from benchmark.cell import Cell, Resolved, resolve_cell
from benchmark.config import Settings, accepted, as_dict, parse
from benchmark.data.batches import Batch, EpochBatches
from benchmark.inputs import CACHE, Sources
from benchmark.measure import environment, one_line, out_of_memory, pick_device
from benchmark.speed_record import PHASES, SpeedRecord, Variant
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Trainer
from benchmark.wiring import build_trainer, pick_precision
from methods import registry
from methods.errors import UserError, unknown

T = TypeVar("T")
Vary = tuple[str, Sequence[str]] | None
"""A setting and the values of it to compare."""


@dataclass(frozen=True)
class Plan:
    """How much is timed."""

    steps: int = 30
    warm_up: int = 5
    passes: int = 3
    evaluation_warm_up: int = 1
    """Validation passes before those that are timed."""
    limit: float = math.inf
    """Seconds of training after which no further step is taken."""

    def __post_init__(self) -> None:
        if min(self.steps, self.passes) < 1 or self.warm_up < 0:
            raise UserError("--steps and --passes must be 1 or more, --warm-up 0 or more.")


def speed(cell: Cell, vary: Vary, plan: Plan, file: Path | None = None) -> SpeedRecord:
    """Time `cell`, or one like it for each value of `vary`, one after another; write the record to `file`.

    Every mistake is found before the first one starts. A variant that runs out of memory is recorded as such.
    """
    key, values = vary or (None, [""])
    cells = [_varied(cell, key, value) for value in values] if key else [cell]
    resolved = [resolve_cell(one) for one in cells]
    for one in resolved:
        pick_precision(one.settings, pick_device())
    with contextlib.suppress(BrokenProcessPool):  # one of them is too large for the host: which, will show
        fresh(_prepare, cells)
    if file is not None:
        _check_writable(file)
    variants = []
    for number, (one, value) in enumerate(zip(resolved, values, strict=True), 1):
        print(f"[{number}/{len(cells)}] {one.cell}", file=sys.stderr, flush=True)
        variants.append(timed(one, value, plan))
    record = _record(resolved[0], cell.overrides, vary, plan, variants)
    if file is not None:
        record.write(file)
    return record


def _record(
    first: Resolved, overrides: Sequence[str], vary: Vary, plan: Plan, variants: list[Variant]
) -> SpeedRecord:
    return SpeedRecord(
        command=_command(first, overrides, vary, plan),
        dataset=first.prepared.name,
        data_key=first.prepared.key,
        llm=first.llm.name if first.llm else None,
        llm_details=first.llm.details() if first.llm else {},
        method=first.cell.method,
        protocol=first.cell.protocol,
        overrides=sorted(overrides),
        vary=vary[0] if vary else None,
        steps=plan.steps,
        warm_up=plan.warm_up,
        passes=plan.passes,
        variants=variants,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check_writable(file: Path) -> None:
    """Raise `UserError` where the record could not be written after hours of measuring."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent):
            pass
    except OSError as error:
        raise UserError(f"--json {file} cannot be written: {error.strerror}; choose another file.") from error
    if file.is_dir():
        raise UserError(f"--json {file} is a folder; give the name of a file.")


def _varied(cell: Cell, key: str, value: str) -> Cell:
    """`cell` with one more setting, whose name and value are checked."""
    config = registry.get(cell.method).Config
    if key not in accepted(config):
        raise unknown("setting in --vary:", key, sorted(accepted(config)))
    if key in {pair.partition("=")[0] for pair in cell.overrides}:
        raise UserError(f"--set and --vary both give '{key}'; leave it out of --set.")
    own = key in {field.name for field in fields(config)}
    parse(config if own else Settings, {key: value}, "--vary")
    return replace(cell, overrides=(*cell.overrides, f"{key}={value}"))


def _command(first: Resolved, overrides: Sequence[str], vary: Vary, plan: Plan) -> str:
    cell = first.cell
    words = ["python", "-m", "benchmark", "speed", "--dataset", first.prepared.name]
    words += ["--llm", first.llm.name] if first.llm else []
    words += ["--method", cell.method, "--protocol", cell.protocol]
    words += ["--set", *overrides] if overrides else []
    words += ["--vary", f"{vary[0]}={','.join(vary[1])}"] if vary else []
    words += ["--steps", str(plan.steps), "--warm-up", str(plan.warm_up), "--passes", str(plan.passes)]
    return join(words)


def fresh(call: Callable[..., T], *arguments: Any) -> T:
    """`call(*arguments)` in a process that starts from nothing; what it raises is raised here."""
    # an interpreter that starts reads this; the filter that the command line sets does not reach it
    os.environ.setdefault("PYTHONWARNINGS", "ignore:The pynvml package is deprecated")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def _prepare(cells: Sequence[Cell]) -> None:
    """Compute what is kept on disk, and find what is wrong with a method's settings."""
    for cell in cells:
        try:
            with TemporaryDirectory() as folder:
                build_trainer(resolve_cell(cell), Checkpoint(Path(folder)))
        except Exception as error:
            if not out_of_memory(error):
                raise


def timed(resolved: Resolved, value: str, plan: Plan, sources: Sources = CACHE) -> Variant:
    """Time one cell in a fresh process; `sources` as of `load_inputs`."""
    blank = Variant(
        value=value,
        status="failed",
        settings=as_dict(resolved.settings),
        hyperparameters=as_dict(resolved.config),
    )
    try:
        return fresh(time_cell, resolved.cell, blank, plan, sources)
    except BrokenProcessPool:
        return blank.model_copy(update={"status": "killed", "error": "the process was killed"})
    except UserError:
        raise
    except Exception as error:
        traceback.print_exception(error)
        return blank.model_copy(update={"error": f"{type(error).__name__}: {one_line(error, 300)}"})


def time_cell(cell: Cell, variant: Variant, plan: Plan, sources: Sources = CACHE) -> Variant:
    """Build `cell` and fill in its figures, in this process."""
    try:
        with TemporaryDirectory() as folder:
            trainer, _ = build_trainer(resolve_cell(cell), Checkpoint(Path(folder)), sources=sources)
            variant.environment = environment(trainer.device, trainer.precision, 1)
            measure(trainer, cell.seed, plan, variant)
    except Exception as error:
        if not out_of_memory(error):
            raise
        variant.status, variant.error = "oom", one_line(error, 300)
        return variant
    variant.status = "ok"
    return variant


def measure(trainer: Trainer, seed: int, plan: Plan, variant: Variant) -> None:
    """Run and time. The device is synchronised at each edge, so phases do not overlap here."""
    task, settings, encoder = trainer.task, trainer.settings, trainer.model.encoder
    variant.batches_per_epoch = len(EpochBatches(task.train, task.sequences, settings, seed, epoch=1))
    variant.steps_per_epoch = -(-variant.batches_per_epoch // settings.accumulation)
    variant.predictions_per_epoch = int(task.train.predictions.sum())
    variant.seconds = {phase: [] for phase in PHASES}
    variant.host_before = psutil.Process().memory_info().rss
    trainer.model.train()
    batches = _endless(trainer, seed)
    with trainer.memory.phase("train"):
        end = time.perf_counter() + plan.limit
        for number in range(plan.warm_up + plan.steps):
            if number > plan.warm_up and time.perf_counter() > end:
                break
            seconds, encoded = _step(trainer, batches)
            if number >= plan.warm_up:
                variant.encoded.append(encoded)
                for phase in PHASES:
                    variant.seconds[phase].append(seconds[phase])
    with trainer.memory.phase("eval"):
        for number in range(plan.evaluation_warm_up + plan.passes):
            begin = _now(trainer.device)
            trainer.rank_users(task.valid)
            if number >= plan.evaluation_warm_up:
                variant.evaluation.append(_now(trainer.device) - begin)
    variant.peak_memory = trainer.memory.peaks
    if encoder.inputs.lengths is not None:
        variant.chunk_tokens, variant.halvings = encoder.chunk_tokens, encoder.halvings


def _step(trainer: Trainer, batches: Iterator[Batch]) -> tuple[dict[str, float], int]:
    """One optimiser step: seconds of its phases, and items that it encoded."""
    begin = _now(trainer.device)
    members = list(islice(batches, trainer.settings.accumulation))
    data = _now(trainer.device) - begin
    # where memory is short, a step is tried again with smaller chunks, as in a run; that try is timed
    seconds, encoded = trainer.within_memory(lambda: _gradients(trainer, members))
    begin = _now(trainer.device)
    trainer.optimise()
    return {"data": data, **seconds, "optimiser": _now(trainer.device) - begin}, encoded


def _gradients(trainer: Trainer, members: Sequence[Batch]) -> tuple[dict[str, float], int]:
    seconds, before = {"forward": 0.0, "backward": 0.0}, trainer.model.encoder.encoded
    for batch in members:
        edges = [_now(trainer.device)]
        loss = trainer.forward(batch).objective / len(members)
        edges.append(_now(trainer.device))
        trainer.backward(loss)
        edges.append(_now(trainer.device))
        seconds["forward"] += edges[1] - edges[0]
        seconds["backward"] += edges[2] - edges[1]
    return seconds, trainer.model.encoder.encoded - before


def _endless(trainer: Trainer, seed: int) -> Iterator[Batch]:
    epoch = 0
    while True:
        epoch += 1
        yield from EpochBatches(trainer.task.train, trainer.task.sequences, trainer.settings, seed, epoch)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
