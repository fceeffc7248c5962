"""The records of a store, `<dataset>/<llm>/<method>/<hash>-s<seed>.json` below a folder of results.

A record counts only if it is valid, is the one that its path names, and, where its run ended well, has
metrics that follow from the ranks beside it. One that does not stops nothing else: whoever reads the store
leaves it out and says so in one line, and a run of its cell keeps it under another name and makes it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

from benchmark.escape import visible_line
from benchmark.files import path_component
from benchmark.results.list_metrics import list_measure
from benchmark.results.metrics import metrics_of, of_lists, of_ranks
from benchmark.results.record import (
    AGAIN,
    NO_LLM,
    RunRecord,
    below_results,
    files_of_run,
    is_as_written,
    model_path,
    read_record,
)
from benchmark.results.schema import METRICS
from benchmark.results.targets import StoredLists, StoredRanks, read_lists, read_ranks
from methods.errors import UserError

PATTERN = "*/*/*/*-s*.json"
"""Records below the folder of the results."""
NARROWED_BY = ("dataset", "llm", "method", "protocol")
"""Fields by which records and their figures may be narrowed."""
ALIKE = 1e-9
"""How far two computations of one metric may be apart."""
OnFault = Callable[[str], object]
"""Takes a line about a record that is not used."""


@dataclass(frozen=True)
class StoredRun:
    """A record and the file that it was read from, `.../<dataset>/<llm>/<method>/<hash>-s<seed>.json`."""

    path: Path
    record: RunRecord

    @property
    def name(self) -> str:
        """`<dataset>/<llm>/<method>/<hash>-s<seed>`: the run, below the folder of the results."""
        return below_results(self.path).removesuffix(".json")

    @property
    def configuration(self) -> str:
        """`<dataset>/<llm>/<method>/<hash>`: the name of its configuration, the same for all its seeds."""
        return self.name.removesuffix(f"-s{self.record.seed}")

    @cached_property
    def ranks(self) -> StoredRanks:
        """Its test ranks, read and compared with the record at the first access and kept from then on.

        Raises `UserError` where they are missing, cannot be read, or are not those of the record.
        """
        return read_ranks(self.path, self.record)

    @cached_property
    def lists(self) -> StoredLists | None:
        """The best items of its test users, read and compared with its ranks at the first access; None where
        the run stored none, as older ones.

        Raises `UserError` where they are missing, cannot be read, or are not those of the record.
        """
        return read_lists(self.path, self.record, self.ranks) if self.record.top_sha256 else None


def warn(line: str) -> None:
    """Print a line to stderr."""
    print(f"warning: {visible_line(line)}", file=sys.stderr)


def ignore(line: str) -> None:
    """Print no line: the caller reports the fault in another way."""


def place(run: RunRecord) -> Path:
    """Where the record of a run lies below the folder of the results."""
    llm = path_component(run.llm) if run.llm else NO_LLM
    return Path(run.dataset, llm, run.method, f"{run.config_hash}-s{run.seed}.json")


def read_result(path: Path, metrics: Collection[str] = METRICS) -> StoredRun:
    """The run whose record is at `path`, compared with its path and its ranks.

    Those of `metrics` that it does not hold are computed from the ranks, for the whole test split; measures
    of lists from the lists, which leave out the history, so that they are figures of `test_masked`. A run
    that did not end well has neither. Raises `UserError` naming the file and the first fault.
    """
    run = read_record(path)
    for part, named, own in zip(
        ("dataset", "llm", "method", "config_hash and seed"), path.parts[-4:], place(run).parts, strict=False
    ):
        if named != own:
            raise UserError(
                f"{path} is not the record that its path names: its {part} gives {own}, not {named}. {AGAIN}"
            )
    stored = StoredRun(path, run)
    if run.status == "ok":
        try:
            _verify(stored)
        except UserError as error:
            raise UserError(f"{path} does not count as a result: {error} {AGAIN}") from error
    if not is_as_written(path):
        raise UserError(f"{path} does not match its checksum. {AGAIN}")
    if run.status == "ok":
        for split, ranks in (("test", stored.ranks.raw), ("test_masked", stored.ranks.masked)):
            absent = [name for name in of_ranks(metrics) if name not in run.metrics[split]]
            run.metrics[split] |= metrics_of(ranks, absent, stored.ranks.weight)
        if (lists := stored.lists) is not None:
            measured = {name: lists.value(list_measure(name)) for name in of_lists(metrics)}
            run.metrics["test_masked"] |= measured
    return stored


def as_stored(run: RunRecord, results: Path, metrics: Collection[str] = METRICS) -> StoredRun:
    """The run of a record that was just written below `results`.

    The record is read again only for those of `metrics` that it does not hold.
    """
    path = results / place(run)
    if run.status != "ok" or set(metrics) <= set(METRICS):
        return StoredRun(path, run)
    return read_result(path, metrics)


def _verify(stored: StoredRun) -> None:
    """Raises `UserError` unless the test metrics follow from the ranks, those of validation from the curve,
    and the lists, where there are any, agree with the ranks."""
    run, targets = stored.record, len(stored.ranks.user)
    known = (run.data.get("fingerprint") or {}).get("test_targets", targets)
    if targets != known:
        raise UserError(f"its ranks are of {targets:,} targets, and its fingerprint has {known:,}.")
    if not run.untrained:
        best = [(point.valid, point.valid_masked) for point in run.curve if point.epoch == run.best_epoch]
        trained = run.fusion.trained if run.fusion else run.metrics
        if best[:1] != [(trained.get("valid"), trained.get("valid_masked"))]:
            raise UserError("its validation metrics are not those of its best epoch.")
    for form in ("", "_masked"):
        _verify_parts(run, len(stored.ranks.users), form)
    _ = stored.lists


def _verify_parts(run: RunRecord, users: int, form: str) -> None:
    """Warm and cold targets together are all of them: the mean of their metrics is that of the test."""
    cold = run.cold_targets if run.cold_weight is None else run.cold_weight
    sizes = {f"test_warm{form}": users - cold, f"test_cold{form}": cold}
    if not any(name in run.metrics for name in sizes):
        return
    sizes = {name: size for name, size in sizes.items() if size}
    for metric in METRICS:
        whole = (
            sum(size * run.metrics.get(name, {}).get(metric, -1.0) for name, size in sizes.items()) / users
        )
        if abs(whole - run.metrics[f"test{form}"][metric]) > ALIKE:
            raise UserError(f"its {' and '.join(sizes)} metrics do not give its test{form} metrics.")


def usable_run(path: Path, on_fault: OnFault = warn, metrics: Collection[str] = METRICS) -> StoredRun | None:
    """The run at `path`, as `read_result` gives it; None where there is no record, or none that counts.

    `on_fault` gets the reason.
    """
    if not path.exists():
        return None
    try:
        return read_result(path, metrics)
    except UserError as error:
        on_fault(str(error))
        return None


def usable(path: Path, on_fault: OnFault = warn) -> RunRecord | None:
    """The record of the run at `path` alone, without its ranks; see `usable_run`."""
    run = usable_run(path, on_fault)
    return run.record if run else None


@dataclass(frozen=True)
class Standing:
    """What is known of the record at a path after reading it once."""

    finished: RunRecord | None = None
    """The record, where it counts, its run ended well, and its method's code has not changed since."""
    outdated: bool = False
    """Whether it counts and its run ended well, and other code of its method made it."""
    without_model: bool = False
    """Whether it would be `finished`, and its run did not keep the weights that are asked for."""
    fault: str = ""
    """Why it does not count; empty where it does, and where there is none."""


def look_up(path: Path, code: str | None, keep_model: bool = False) -> Standing:
    """Read the record at `path`; `code` is the digest of its method's code now, None for any. `keep_model`
    asks for the weights of a run that trained."""
    faults: list[str] = []
    record = usable(path, faults.append)
    if record is None or record.status != "ok":
        return Standing(fault="".join(faults))
    if record.made_by_other(code):
        return Standing(outdated=True)
    return Standing(without_model=True) if keep_model and lacks_model(path, record) else Standing(record)


def lacks_model(path: Path, record: RunRecord) -> bool:
    """Whether a run that trained has no kept weights beside its record at `path`."""
    return not record.untrained and not (record.model_sha256 and model_path(path).exists())


def finished(path: Path, code: str | None, keep_model: bool = False) -> RunRecord | None:
    """The finished record at `path`; see `look_up`."""
    return look_up(path, code, keep_model).finished


def iter_runs(
    folder: Path, on_fault: OnFault = warn, metrics: Collection[str] = METRICS
) -> Iterator[StoredRun]:
    """The runs below `folder` whose records count (see `read_result`), in the order of their paths.

    `on_fault` gets why others do not.
    """
    for path in sorted(folder.glob(PATTERN)):
        if (run := usable_run(path, on_fault, metrics)) is not None:
            yield run


def set_aside(path: Path, fault: str) -> str:
    """Rename a record that does not count because of `fault`, and its files, to `<name>.damaged`.

    Returns a line that says so. Only the process that has the right to run the record's run may call this.
    """
    endings = (".damaged" if n == 1 else f".damaged-{n}" for n in count(1))
    kept = next(new for end in endings if not (new := path.with_name(path.name + end)).exists())
    for file in files_of_run(path):
        if file.exists():
            file.replace(file.with_name(kept.name.replace(path.name, file.name)))
    return f"{fault.removesuffix(AGAIN).rstrip()} It is kept as {kept.name}, and the run is repeated."
