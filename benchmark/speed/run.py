"""Measure one cell, or several that differ in one setting, each in a process of its own.

Each variant is timed in a fresh process, so that peaks of memory, caches and an early end never leak into
the next one. What a cell computes once (hidden states, tokens) is computed before, in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields, replace
from datetime import UTC, datetime
from multiprocessing import active_children, get_context
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from benchmark.config import Settings, accepted, as_dict, parse
from benchmark.measure import environment, one_line, out_of_memory, pick_device
from benchmark.results.record import GENERATION
from benchmark.run.build import build_trainer, pick_precision
from benchmark.run.inputs import CACHE, Sources
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.speed.against import check_alike
from benchmark.speed.record import SpeedRecord, Variant, read_speed
from benchmark.speed.steps import Plan, measure
from benchmark.train.checkpoint import Checkpoint
from methods import registry
from methods.errors import UserError, unknown

T = TypeVar("T")
Vary = tuple[str, Sequence[str]] | None
"""A setting and the values of it to compare."""


def speed(
    cell: RunSpec, vary: Vary, plan: Plan, file: Path | None = None, against: Path | None = None
) -> SpeedRecord:
    """Time `cell`, or one like it for each value of `vary`, one after another; write the record to `file`.

    Every mistake is found before the first one starts, also that the record `against` measured something
    else. A variant that runs out of memory is recorded as such.
    """
    key, values = vary or (None, [""])
    cells = [_varied(cell, key, value) for value in values] if key else [cell]
    resolved = [resolve_run(one) for one in cells]
    for one in resolved:
        pick_precision(one.settings, pick_device())
    blanks = [_blank(one, value) for one, value in zip(resolved, values, strict=True)]
    record = _record(resolved[0], cell.overrides, vary, plan, blanks)
    if against is not None:
        check_alike(record, read_speed(against), against)
    with contextlib.suppress(BrokenProcessPool):  # one of them is too large for the host: which, will show
        fresh(_prepare, cells)
    if file is not None:
        _check_writable(file)
    for number, (one, value) in enumerate(zip(resolved, values, strict=True)):
        print(f"[{number + 1}/{len(cells)}] {one.spec}", file=sys.stderr, flush=True)
        record.variants[number] = timed(one, value, plan)
    if file is not None:
        record.write(file)
    return record


def _record(
    first: ResolvedRun, overrides: Sequence[str], vary: Vary, plan: Plan, variants: list[Variant]
) -> SpeedRecord:
    return SpeedRecord(
        generation=GENERATION,
        command=_command(first, overrides, vary, plan),
        dataset=first.prepared.name,
        data_key=first.prepared.key,
        llm=first.llm.name if first.llm else None,
        llm_details=first.llm.details() if first.llm else {},
        method=first.spec.method,
        protocol=first.spec.protocol,
        overrides=sorted(overrides),
        vary=vary[0] if vary else None,
        steps=plan.steps,
        warm_up=plan.warm_up,
        passes=plan.passes,
        epochs=plan.epochs,
        variants=variants,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check_writable(file: Path) -> None:
    """Fail where the record could not be written after hours of measuring."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent):
        pass
    if file.is_dir():
        raise UserError(f"--json {file} is a folder; give the name of a file.")


def _varied(cell: RunSpec, key: str, value: str) -> RunSpec:
    """`cell` with one more setting, whose name and value are checked."""
    config = registry.get(cell.method).Config
    if key not in accepted(config):
        raise unknown("setting in --vary:", key, sorted(accepted(config)))
    if key in {pair.partition("=")[0] for pair in cell.overrides}:
        raise UserError(f"--set and --vary both give '{key}'; leave it out of --set.")
    own = key in {field.name for field in fields(config)}
    parse(config if own else Settings, {key: value}, "--vary")
    return replace(cell, overrides=(*cell.overrides, f"{key}={value}"))


def _command(first: ResolvedRun, overrides: Sequence[str], vary: Vary, plan: Plan) -> str:
    cell = first.spec
    words = ["python", "-m", "benchmark", "speed", "--dataset", first.prepared.name]
    words += ["--llm", first.llm.name] if first.llm else []
    words += ["--method", cell.method, "--protocol", cell.protocol]
    words += cell.reading.words()
    words += ["--set", *overrides] if overrides else []
    words += ["--vary", f"{vary[0]}={','.join(vary[1])}"] if vary else []
    words += ["--steps", str(plan.steps), "--warm-up", str(plan.warm_up), "--passes", str(plan.passes)]
    words += ["--epochs", str(plan.epochs)] if plan.epochs else []
    return join(words)


def fresh(call: Callable[..., T], *arguments: Any) -> T:
    """`call(*arguments)` in a process that starts from nothing; what it raises is raised here."""
    # an interpreter that starts reads this; the filter that the command line sets does not reach it
    os.environ.setdefault("PYTHONWARNINGS", "ignore:The pynvml package is deprecated")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        # it inherits that: ctrl-C of a terminal, which reaches both, is for this process to tell of
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            told = pool.submit(call, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            return told.result()
        except KeyboardInterrupt:
            for child in active_children():
                child.kill()
            raise


def _prepare(cells: Sequence[RunSpec]) -> None:
    """Compute what is kept on disk, and find what is wrong with a method's settings."""
    for cell in cells:
        try:
            with TemporaryDirectory() as folder:
                build_trainer(resolve_run(cell), Checkpoint(Path(folder)))
        except Exception as error:
            if not out_of_memory(error):
                raise


def _blank(resolved: ResolvedRun, value: str) -> Variant:
    return Variant(
        value=value,
        status="failed",
        settings=as_dict(resolved.settings),
        hyperparameters=as_dict(resolved.config),
    )


def timed(resolved: ResolvedRun, value: str, plan: Plan, sources: Sources = CACHE) -> Variant:
    """Time one cell in a fresh process; `sources` as of `load_inputs`."""
    blank = _blank(resolved, value)
    try:
        return fresh(time_cell, resolved.spec, blank, plan, sources)
    except BrokenProcessPool:
        return blank.model_copy(update={"status": "killed", "error": "the process was killed"})
    except UserError:
        raise
    except Exception as error:
        traceback.print_exception(error)
        return blank.model_copy(update={"error": f"{type(error).__name__}: {one_line(error, 300)}"})


def time_cell(cell: RunSpec, variant: Variant, plan: Plan, sources: Sources = CACHE) -> Variant:
    """Build `cell` and fill in its figures, in this process."""
    try:
        with TemporaryDirectory() as folder:
            trainer, _ = build_trainer(resolve_run(cell), Checkpoint(Path(folder)), sources=sources)
            variant.environment = environment(trainer.device, trainer.precision, 1)
            measure(trainer, plan, variant)
    except Exception as error:
        if not out_of_memory(error):
            raise
        variant.status, variant.error = "oom", one_line(error, 300)
        return variant
    variant.status = "ok"
    return variant
