"""Execute one run and write its record, in a process of its own or in one per GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.files import remove_abandoned
from benchmark.measure import environment, one_line, out_of_memory, pick_device
from benchmark.model.parallel import is_main, log_main, world_size
from benchmark.process.exit_status import BusyError, causes, refusal
from benchmark.process.locks import Lock
from benchmark.results.index import keep_indexed
from benchmark.results.record import RunRecord, model_path, ranks_path
from benchmark.results.store import Standing, look_up, set_aside
from benchmark.results.targets import POSITION, StoredLists, write_columns, write_lists
from benchmark.run.build import build_trainer, make_accelerator
from benchmark.run.controls import fuse, score_control
from benchmark.run.describe import add_cost, add_quality, add_texts, add_training, blank, user_lists
from benchmark.run.kept import write_kept
from benchmark.run.precision import pick_precision
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.run.tracking import Tracking
from benchmark.train.checkpoint import Checkpoint
from benchmark.train.control_ranks import ControlError
from benchmark.train.evaluate import NotFiniteError, UserRanks
from benchmark.train.liveness import NotAliveError
from methods.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator


def run(
    spec: RunSpec,
    results: Path,
    fresh: bool = False,
    keep_model: bool = False,
    track: Sequence[str] = (),
) -> tuple[Path, RunRecord]:
    """Execute `spec`, or return its record where it is finished; an interrupted run is resumed.

    `fresh` discards a finished record and a checkpoint. `keep_model` keeps the weights of the chosen epoch
    beside the record; a finished run that trained and did not keep them is run again. `track` names trackers
    of experiments (`benchmark.run.tracking`). A failure of the run
    itself is recorded (`failed`, `oom`) and returned; a user's mistake raises `UserError`; ctrl-C leaves the
    checkpoint and re-raises.
    """
    resolved = resolve_run(spec)  # in every process; file locks let one prepare the data and the others wait
    precision = pick_precision(resolved.settings, pick_device())
    accelerator = make_accelerator(precision)
    for warning in resolved.prepared.warnings:
        log_main(f"warning: {warning}")
    path = resolved.record_path(results)
    checkpoint = Checkpoint(path.with_suffix(".checkpoint"), resolved.identity)
    with _exclusive(path, accelerator):
        remove_abandoned(path.parent)
        standing = Standing() if fresh else look_up(path, resolved.code, keep_model)
        accelerator.wait_for_everyone()
        if standing.finished:
            if accelerator.is_main_process:
                checkpoint.remove()  # there is one where a kill hit after the record was written
            log_main(f"finished already: {path} (--fresh runs it anew)")
            return path, standing.finished
        if standing.outdated:
            log_main(f"{path} was made by other code of method {spec.method}; it is run again")
        if standing.without_model:
            log_main(f"{path} has no kept weights; it is run again")
        if accelerator.is_main_process:
            keep_indexed(path)
            if standing.fault:
                log_main(set_aside(path, standing.fault))
            path.unlink(missing_ok=True)  # of a run that did not end well, or that --fresh replaces
            model_path(path).unlink(missing_ok=True)
            if fresh:
                checkpoint.remove()
        accelerator.wait_for_everyone()
        tracking = Tracking(track if accelerator.is_main_process else (), resolved, results, log_main)
        record = None
        try:
            record = _attempt(resolved, precision, accelerator, path, checkpoint, keep_model, tracking)
        finally:
            tracking.end(record, path)
        return path, record


def _attempt(
    resolved: ResolvedRun,
    precision: str,
    accelerator: Accelerator,
    path: Path,
    checkpoint: Checkpoint,
    keep_model: bool,
    tracking: Tracking,
) -> RunRecord:
    """Run to the end, and record how it ended."""
    record = blank(resolved, environment(accelerator.device, precision, world_size()))
    try:
        if resolved.control:
            ranks, lists = score_control(resolved, record, accelerator.device)
        else:
            kept = model_path(path) if keep_model else None
            ranks, lists = _execute(resolved, record, accelerator, checkpoint, kept, tracking)
    except UserError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if not any(isinstance(cause, KeyboardInterrupt | BrokenPipeError) for cause in causes(error)):
            return _failed(record, error, path)
        # torch.save raises another error where ctrl-C hits it; a pipe breaks where its reader is killed
        again = "runs it again" if resolved.control else "goes on from the last epoch"
        _write(record, "interrupted", f"stopped by ctrl-C; the same command {again}", path)
        raise KeyboardInterrupt from error
    if accelerator.is_main_process:
        record.ranks_sha256 = _write_ranks(ranks, path)
        record.top_sha256 = write_lists(lists, path)
    done = _write(record, "ok", None, path)
    if accelerator.is_main_process:
        checkpoint.remove()  # last: a kill before the record stands must leave something to go on from
    return done


def _failed(record: RunRecord, error: BaseException, path: Path) -> RunRecord:
    """Record a fault of the run itself; raises it again where it is one of the code or of the system."""
    if isinstance(error, NotFiniteError | NotAliveError | ControlError):
        return _write(record, "failed", one_line(error, 500), path)
    if out_of_memory(error):
        return _write(record, "oom", one_line(error, 500), path)
    reason = refusal(error) or f"{type(error).__name__}: {one_line(error, 500)}"
    with suppress(OSError):  # on a full disk there may be no room for this either
        _write(record, "failed", reason, path)
    raise error


def _execute(
    resolved: ResolvedRun,
    record: RunRecord,
    accelerator: Accelerator,
    checkpoint: Checkpoint,
    kept: Path | None,
    tracking: Tracking,
) -> tuple[UserRanks, StoredLists]:
    """Train and test; fills `record` as it goes. Writes the weights of the chosen epoch to `kept`."""
    trainer, inputs = build_trainer(resolved, checkpoint, accelerator)
    trainer.on_epoch = tracking.epoch
    add_cost(record, trainer, inputs)
    if warning := add_texts(record, resolved, inputs):
        log_main(f"warning: {warning}")
    try:
        record.stopped = trainer.fit()
        ranks = trainer.test()
    except BaseException:
        add_training(record, trainer, alone=True)
        raise
    add_training(record, trainer)
    record.extra = trainer.model.method.extra_record()
    task, best = trainer.task, record.curve[(record.best_epoch or 1) - 1]
    valid = {"valid": best.valid, "valid_masked": best.valid_masked}
    targets = task.sequences.items[task.test.targets]
    add_quality(record, valid, targets, task.sequences.trained, ranks)
    record.liveness = trainer.certificate()
    if record.liveness.problems:
        raise NotAliveError(record.liveness.problems[0])
    if kept is not None:
        record.model_sha256 = write_kept(kept, resolved, trainer, inputs)
    if resolved.fused:
        ranks = fuse(resolved, record, trainer, ranks)
    return ranks, user_lists(resolved.prepared, ranks)


def _write(record: RunRecord, status: str, error: str | None, path: Path) -> RunRecord:
    """Write how the run ended.

    Of several processes the main one writes if the run ended well. On failure the first failing process
    writes, and the launcher terminates the others.
    """
    record = RunRecord.model_validate({**record.model_dump(), "status": status, "error": error})
    if is_main() if status == "ok" else not path.exists():
        record.write(path)
    return record


def _write_ranks(ranks: UserRanks, path: Path) -> str:
    """Parquet beside the record, int32: user (index in the prepared data), best rank and number of tied
    items, the same with the user's history masked, and where a user has several targets their positions: ->
    SHA-256 of the file."""
    several = {POSITION: ranks.position} if (ranks.weight < 1).any() else {}
    columns = {
        "user": ranks.user, **several, "rank": ranks.raw.best, "tied": ranks.raw.tied,
        "rank_masked": ranks.masked.best, "tied_masked": ranks.masked.tied,
    }  # fmt: skip
    return write_columns(
        ranks_path(path), {name: values.astype(np.int32) for name, values in columns.items()}
    )


@contextmanager
def _exclusive(path: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep a second process from doing the same run. Only the main process of a group holds the lock."""
    if not accelerator.is_main_process:
        yield
        return
    lock = Lock(path.with_suffix(".lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not lock.acquire(1.0):  # a bench that looks whether it is free holds it for an instant
        raise BusyError(f"another process is working on {path}; wait for it or stop it.")
    try:
        yield
    finally:
        lock.remove()
