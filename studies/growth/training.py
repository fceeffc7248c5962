"""Training steps and validation passes on datasets of growing size, each in a fresh process."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmark.grid.probe import random_states, random_token_states
from benchmark.llm.cache import DTYPES
from benchmark.measure import environment, one_line, out_of_memory
from benchmark.results.record import GENERATION
from benchmark.run.build import build_trainer
from benchmark.run.inputs import Sources
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.speed.measure import Amounts, measure
from benchmark.speed.record import Timed, Variant
from benchmark.speed.run import in_fresh_process
from benchmark.train.batches import EpochBatches
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Trainer
from benchmark.train.rows import Rows
from methods import registry
from methods.base import kinds, reads_llm
from methods.errors import UserError
from studies import command_line
from studies.growth.record import GrowthRecord, Size

STARTS = 3
"""Times that the beginning of an epoch is timed."""


def grow(cells: Sequence[RunSpec], users: int, rounds: int, amounts: Amounts) -> GrowthRecord:
    """Measure each of `cells`, which differ in their dataset alone, `rounds` times in turn.

    Hidden states are drawn at random in the language model's shape: what they say does not change what a
    step costs, and encoding a million texts takes hours. At most `users` users are ranked in evaluation.
    """
    if users < 1 or rounds < 1:
        raise UserError("--users and --rounds must be 1 or more.")
    sizes: list[Size] = []
    for cell in cells:
        _say(f"{cell.dataset}: prepare")
        sizes.append(in_fresh_process(blank, cell))
    for number in range(rounds):
        for cell, size in zip(cells, sizes, strict=True):
            if size.failed is None:
                _say(f"{cell.dataset}: round {number + 1} of {rounds}")
                _round(cell, size, users, amounts)
    first = cells[0]
    words = ["train", "--method", first.method, "--llm", first.llm, "--protocol", first.protocol]
    words += ["--datasets", ",".join(cell.dataset for cell in cells), "--users", str(users)]
    words += ["--rounds", str(rounds), "--steps", str(amounts.steps), "--warm-up", str(amounts.warm_up)]
    words += ["--passes", str(amounts.passes), *(["--set", *first.overrides] if first.overrides else [])]
    return GrowthRecord(
        generation=GENERATION,
        command=command_line("growth", words),
        method=first.method,
        llm=first.llm if reads_llm(registry.get(first.method)) else None,
        protocol=first.protocol,
        overrides=sorted(first.overrides),
        sizes=sizes,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def blank(cell: RunSpec) -> Size:
    """What is known of a size before it is measured; prepares the dataset where it is not yet."""
    resolved = resolve_run(cell)
    prepared = resolved.prepared
    return Size(
        dataset=prepared.name,
        data_key=prepared.key,
        users=len(prepared.offsets) - 1,
        items=len(prepared.texts),
        trained_items=len(prepared.trained),
        interactions=len(prepared.items),
        evaluated_users=0,
        states_bytes=_states_bytes(resolved),
        table_bytes=len(prepared.texts) * resolved.settings.width * 4,
        rounds=[],
        epoch_start=Timed(),
    )


def _states_bytes(resolved: ResolvedRun) -> int:
    if resolved.llm is None or "states" not in kinds(resolved.cls):
        return 0
    layers = len(resolved.cls.layers(resolved.config, resolved.llm.n_layers))
    size = DTYPES[resolved.settings.states_dtype].itemsize
    return len(resolved.prepared.texts) * layers * resolved.llm.width * size


def _round(cell: RunSpec, size: Size, users: int, amounts: Amounts) -> None:
    """Add one measurement to `size`, or why there is none."""
    resolved = resolve_run(cell)
    variant = Variant(
        value=size.dataset,
        status="failed",
        settings=asdict(resolved.settings),
        hyperparameters=asdict(resolved.config),
    )
    try:
        variant, start, ranked = in_fresh_process(in_this_process, cell, variant, users, amounts)
        size.evaluated_users = ranked
        size.epoch_start.seconds += start.seconds
        size.epoch_start.cpu_seconds += start.cpu_seconds
    except BrokenProcessPool:
        variant.status, variant.error = "killed", "the process was killed"
    except UserError:
        raise
    except Exception as error:
        traceback.print_exception(error)
        variant.error = f"{type(error).__name__}: {one_line(error, 300)}"
    size.rounds.append(variant)


def in_this_process(
    cell: RunSpec, variant: Variant, users: int, amounts: Amounts
) -> tuple[Variant, Timed, int]:
    """Build `cell` and measure it: -> its figures, the start of an epoch, and how many users were ranked."""
    start, ranked = Timed(), 0
    try:
        with TemporaryDirectory() as folder:
            sources = Sources(random_states, random_token_states)
            trainer, _ = build_trainer(resolve_run(cell), Checkpoint(Path(folder)), sources=sources)
            trainer.task = replace(trainer.task, valid=evenly(trainer.task.valid, users))
            ranked = len(trainer.task.valid)
            variant.environment = environment(trainer.device, trainer.precision, 1)
            start = time_start(trainer)
            measure(trainer, amounts, variant)
            variant.status = "ok"
    except Exception as error:
        if not out_of_memory(error):
            raise
        variant.status, variant.error = "oom", one_line(error, 300)
    return variant, start, ranked


def evenly(rows: Rows, count: int) -> Rows:
    """At most `count` of `rows`, taken evenly."""
    return rows.take(np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)))


def time_start(trainer: Trainer) -> Timed:
    """What an epoch does before its first batch."""
    timed, task = Timed(), trainer.task
    for _ in range(STARTS):
        wall, cpu = time.perf_counter(), time.process_time()
        EpochBatches(task.train, task.sequences, trainer.settings, trainer.seed, epoch=1)
        timed.seconds.append(time.perf_counter() - wall)
        timed.cpu_seconds.append(time.process_time() - cpu)
    return timed
