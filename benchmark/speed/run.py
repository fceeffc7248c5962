"""Measure the speed of a run, or of several that differ in one setting.

Each variant is timed in a fresh process, so that peaks of memory, caches and crashes do not affect the next.
What a run computes only once (hidden states, tokens) is computed before, in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from multiprocessing import active_children, get_context
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from benchmark.config import Settings, parse
from benchmark.measure import environment, one_line, out_of_memory, pick_device
from benchmark.process import startup
from benchmark.results.record import GENERATION
from benchmark.run.build import build_trainer
from benchmark.run.inputs import CACHE, Sources
from benchmark.run.precision import pick_precision
from benchmark.run.spec import ResolvedRun, RunSpec, accepted, resolve_run
from benchmark.speed.measure import Amounts, measure
from benchmark.speed.record import SpeedRecord, Variant, read_speed
from benchmark.speed.tables import check_comparable
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.loop import Trainer
from methods import registry
from methods.errors import UserError, unknown

T = TypeVar("T")
Vary = tuple[str, Sequence[str]] | None
"""A setting and the values of it to compare."""


def measure_speed(
    spec: RunSpec, vary: Vary, amounts: Amounts, file: Path | None = None, against: Path | None = None
) -> SpeedRecord:
    """Time `spec`, or a variant of it for each value of `vary`, and write the record to `file`.

    Raises `UserError` before anything is timed, also where the record `against` measured something else. A
    variant that runs out of memory is recorded as such.
    """
    registry.get(spec.method)  # raises for a control, which has no steps to time
    key, values = vary or (None, [""])
    specs = [_varied(spec, key, value) if key else spec for value in values]
    runs = [resolve_run(variant) for variant in specs]
    for run in runs:
        pick_precision(run.settings, pick_device())
    empty = [_empty_variant(run, value) for run, value in zip(runs, values, strict=True)]
    record = _record(runs[0], spec.overrides, vary, amounts, empty)
    if against is not None:
        check_comparable(record, read_speed(against), against)
    with contextlib.suppress(BrokenProcessPool):  # a variant is too large for the host; timing shows which
        in_fresh_process(_prepare, specs)
    if file is not None:  # raise before anything is timed where the record could not be written
        file.parent.mkdir(parents=True, exist_ok=True)
        TemporaryDirectory(dir=file.parent).cleanup()
        if file.is_dir():
            raise UserError(f"--json {file} is a folder; give the name of a file.")
    for number, (run, value) in enumerate(zip(runs, values, strict=True)):
        print(f"[{number + 1}/{len(runs)}] {run.spec}", file=sys.stderr, flush=True)
        record.variants[number] = time_variant(run, value, amounts)
    if file is not None:
        record.write(file)
    return record


def _record(
    run: ResolvedRun, overrides: Sequence[str], vary: Vary, amounts: Amounts, variants: list[Variant]
) -> SpeedRecord:
    return SpeedRecord(
        generation=GENERATION,
        command=_command(run, overrides, vary, amounts),
        dataset=run.prepared.name,
        data_key=run.prepared.key,
        llm=run.llm.name if run.llm else None,
        llm_details=run.llm.details() if run.llm else {},
        method=run.spec.method,
        protocol=run.spec.protocol,
        overrides=sorted(overrides),
        vary=vary[0] if vary else None,
        **{name: getattr(amounts, name) for name in ("steps", "warm_up", "passes", "epochs")},
        variants=variants,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _varied(spec: RunSpec, key: str, value: str) -> RunSpec:
    """`spec` with one more setting, whose name and value are checked."""
    cls = registry.get(spec.method)
    if key not in accepted(cls):
        raise unknown("setting in --vary:", key, sorted(accepted(cls)))
    if key in {pair.partition("=")[0] for pair in spec.overrides}:
        raise UserError(f"--set and --vary both give '{key}'; leave it out of --set.")
    own = key in {field.name for field in fields(cls.Config)}
    parse(cls.Config if own else Settings, {key: value}, "--vary")
    return replace(spec, overrides=(*spec.overrides, f"{key}={value}"))


def _command(run: ResolvedRun, overrides: Sequence[str], vary: Vary, amounts: Amounts) -> str:
    words = ["python", "-m", "benchmark", "speed", "--dataset", run.prepared.name]
    words += ["--llm", run.llm.name] if run.llm else []
    words += ["--method", run.spec.method, "--protocol", run.spec.protocol, *run.spec.reading.words()]
    words += ["--set", *overrides] if overrides else []
    words += ["--vary", f"{vary[0]}={','.join(vary[1])}"] if vary else []
    for name in ("steps", "warm_up", "passes", *(["epochs"] if amounts.epochs else [])):
        words += [f"--{name.replace('_', '-')}", str(getattr(amounts, name))]
    return join(words)


def in_fresh_process(call: Callable[..., T], *arguments: Any) -> T:
    """`call(*arguments)` in a new interpreter; an exception there is raised here."""
    # a new interpreter reads this variable; the command line's warning filter does not reach it
    os.environ.setdefault("PYTHONWARNINGS", "ignore:The pynvml package is deprecated")
    with ProcessPoolExecutor(1, get_context("spawn"), startup.defer_compiler) as pool:
        # the child inherits the mask: only this process handles ctrl-C, which a terminal sends to both
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future = pool.submit(call, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            return future.result()
        except KeyboardInterrupt:
            for child in active_children():
                child.kill()
            raise


@contextlib.contextmanager
def _trainer(spec: RunSpec, sources: Sources = CACHE) -> Iterator[Trainer]:
    """The trainer of `spec`, with a checkpoint in a temporary folder."""
    with TemporaryDirectory() as folder:
        yield build_trainer(resolve_run(spec), Checkpoint(Path(folder)), sources=sources)[0]


def _prepare(specs: Sequence[RunSpec]) -> None:
    """Build every run, which fills the cache on disk and raises `UserError` for a wrong setting."""
    for spec in specs:
        try:
            with _trainer(spec):
                pass
        except Exception as error:
            if not out_of_memory(error):
                raise


def _empty_variant(run: ResolvedRun, value: str) -> Variant:
    return Variant(
        value=value,
        status="failed",
        settings=asdict(run.settings),
        hyperparameters=asdict(run.config),
    )


def time_variant(run: ResolvedRun, value: str, amounts: Amounts, sources: Sources = CACHE) -> Variant:
    """Time one run in a fresh process; `sources` as in `load_inputs`."""
    variant = _empty_variant(run, value)
    try:
        return in_fresh_process(time_run, run.spec, variant, amounts, sources)
    except BrokenProcessPool:
        return variant.model_copy(update={"status": "killed", "error": "the process was killed"})
    except UserError:
        raise
    except Exception as error:
        traceback.print_exception(error)
        return variant.model_copy(update={"error": f"{type(error).__name__}: {one_line(error, 300)}"})


def time_run(spec: RunSpec, variant: Variant, amounts: Amounts, sources: Sources = CACHE) -> Variant:
    """Build `spec` and fill in the figures of `variant`, in this process."""
    try:
        with _trainer(spec, sources) as trainer:
            variant.environment = environment(trainer.device, trainer.precision, 1)
            measure(trainer, amounts, variant)
    except Exception as error:
        if not out_of_memory(error):
            raise
        variant.status, variant.error = "oom", one_line(error, 300)
        return variant
    variant.status = "ok"
    return variant
