"""Check a store: its index, every file that the index names, and what git says of both.

Each check is a function whose docstring says what it promises; it raises `UserError` where that does not
hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.config import ROW_SETTINGS, Settings, searched
from benchmark.escape import visible_line
from benchmark.files import digest_of
from benchmark.results.index import INDEX, REPLACED, START, SUBMITTED, Entry, Index, read_index
from benchmark.results.record import RunRecord, read_record
from benchmark.results.store import PATTERN, read_result
from benchmark.verify.format import RUNS, SUFFIX, shown
from benchmark.verify.guard import Request, verify_guarded
from benchmark.verify.history import SkippedError, check_history
from benchmark.verify.levels import Finding
from benchmark.verify.opened import opening
from benchmark.verify.seeds import SeedOfRow, check_seeds
from methods.errors import UserError

LEVEL = "store"
_FILE = re.compile(rf"[0-9a-f]{{12}}-s[0-9]+\.(json|ranks\.parquet|top\.parquet)$|{re.escape(SUFFIX)}$")
"""The name of a record, of a file beside it, or of a bundle."""
DATA_FACTS = ("users", "items", "interactions", "test_targets", "valid_targets", "sha256")
"""Counts and digest of a fingerprint, which records of the same data share. Older records have no others."""


@dataclass(frozen=True)
class Store:
    """A folder of results that has an index."""

    results: Path
    head: str = ""
    """Checksum of an entry that the index is known to have had."""
    seconds: int = 600
    """Time for the check of each bundle."""

    @cached_property
    def index(self) -> Index:
        """Its index."""
        return read_index(self.results)

    @cached_property
    def records(self) -> list[tuple[Entry, RunRecord]]:
        """The records of all entries, also of those that others replace."""
        return [(entry, read_record(entry.place(self.results))) for entry in self.index.entries]

    @property
    def local(self) -> list[Path]:
        """Records that reports read and that are in no entry."""
        return [path for path in sorted(self.results.glob(PATTERN)) if not self._has(path)]

    @cached_property
    def unnamed(self) -> list[str]:
        """Bundles, records and files beside them in the folders of entries alone, that no entry names."""
        named = {f"{SUBMITTED}/{entry.bundle}" for entry in self.index.entries}
        for entry in self.index.entries:
            named |= {place for file in entry.files for place in (file, entry.kept(file))}
        paths = (path for folder in (SUBMITTED, REPLACED) for path in (self.results / folder).rglob("*"))
        found = {path.relative_to(self.results).as_posix() for path in paths if _FILE.search(path.name)}
        return sorted(found - named)

    @property
    def waiting(self) -> list[str]:
        """Bundles that were submitted and not added yet."""
        return [path for path in self.unnamed if path.endswith(SUFFIX)]

    def _has(self, path: Path) -> bool:
        entry = self.index.latest.get(path.relative_to(self.results).as_posix())
        return entry is not None and entry.sha256 == digest_of(path)


def chain(store: Store) -> None:
    """Every line of the index holds its own checksum and that of the line before it."""
    _ = store.index


def files(store: Store) -> None:
    """The files of every entry are there, as they were added."""
    for entry in store.index.entries:
        for file in entry.lacks(store.results):
            what = "was changed" if (store.results / file).exists() else "is gone"
            raise UserError(f"{file}, of entry {entry.entry}, {what}.")


def head(store: Store) -> None:
    """The index has the entry that was its last one when --head was noted: nothing was cut off."""
    if not store.head:
        raise SkippedError(
            "--head DIGEST, from an earlier `add` or `verify`, shows whether lines were cut off"
        )
    if store.head not in {START, *(entry.checksum for entry in store.index.entries)}:
        raise UserError(
            f"no line of {INDEX} has the checksum {store.head}: lines were cut off or written anew since it "
            "was the head. Take the file of an earlier commit or of a copy."
        )


def unnamed(store: Store) -> None:
    """No record or file of one in submitted/ or replaced/ is without an entry."""
    lost = [path for path in store.unnamed if not path.endswith(SUFFIX)]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(
            f"no entry names {visible_line(lost[0])}{more}: lines of {INDEX} were removed, or `adaptrec "
            "add` was stopped; then give its command again."
        )


def bundles(store: Store) -> None:
    """The bundle of every submitted entry is there, reaches L2 again, and holds the files of the entry."""
    members: dict[tuple[str, str | None], dict[str, str]] = {}
    for entry in store.index.entries:
        if entry.bundle is None:
            continue
        key = entry.bundle, entry.bundle_sha256
        if key not in members:
            members[key] = _members(store, entry.bundle, entry)
        for file, digest in entry.files.items():
            name = f"{RUNS}/{'/'.join(file.split('/')[-4:])}"
            if members[key].get(name) != digest:
                raise UserError(f"{file}, of entry {entry.entry}, is not the one in {entry.bundle}.")


def _members(store: Store, name: str, entry: Entry) -> dict[str, str]:
    """Name -> SHA-256 of the files of a bundle that reaches L2, whatever level its entry says."""
    path, what = store.results / SUBMITTED / name, f"the bundle {name}, of entry {entry.entry},"
    if not path.is_file():
        raise UserError(f"{what} is gone.")
    if digest_of(path) != entry.bundle_sha256:
        raise UserError(f"{what} was changed.")
    verdict = verify_guarded(Request(path, "L2", store.seconds))
    if not verdict.reaches("L2"):
        raise UserError(f"{what} reaches level {verdict.reached or 'none'}, not L2: {verdict.faults[0]}")
    with opening(path) as bundle:
        if not bundle.digest == verdict.digest == entry.bundle_sha256:
            raise UserError(f"{what} changed while it was verified.")
        return {file.path: file.sha256 for file in bundle.read_manifest().files}


def protocols(store: Store) -> None:
    """Records of one protocol hash have the same data and settings, save those in which rows may differ."""
    check_alike((f"entry {entry.entry}", record) for entry, record in store.records)


def check_alike(runs: Iterable[tuple[str, RunRecord]]) -> None:
    """Raise `UserError` where records, each with a name for messages, contradict each other: of one protocol
    hash in what it covers, of one configuration hash in their method, of one data key in what their data
    are."""
    of_hash: dict[str, tuple[str, RunRecord]] = {}
    of_config: dict[tuple[str, str], tuple[str, RunRecord]] = {}
    of_key: dict[str, tuple[str, RunRecord]] = {}
    for name, record in runs:
        other, same = of_hash.setdefault(record.protocol_hash, (name, record))
        if apart := next(_apart(record, same), None):
            raise UserError(
                f"{other} and {name} have the protocol hash {record.protocol_hash}, and differ in {apart}."
            )
        key = str(record.data.get("key"))
        other, same = of_config.setdefault((key, record.config_hash), (name, record))
        if same.method != record.method:
            raise UserError(
                f"{other} and {name} have the configuration hash {record.config_hash}, and are of "
                f"the methods {shown(same.method)} and {shown(record.method)}."
            )
        other, same = of_key.setdefault(key, (name, record))
        facts, others = [run.data.get("fingerprint") or {} for run in (record, same)]
        for fact in DATA_FACTS:
            if facts.get(fact) != others.get(fact):
                raise UserError(
                    f"{other} and {name} have the data key {shown(key)}, and their data differ in {fact}: "
                    f"{shown(others.get(fact))} and {shown(facts.get(fact))}."
                )


def _apart(a: RunRecord, b: RunRecord) -> Iterator[str]:
    """What two records of one protocol hash may not differ in, and do."""
    if a.data.get("key") != b.data.get("key"):
        yield "data"
    if a.protocol != b.protocol:
        yield "protocol"
    own = {*ROW_SETTINGS, *searched(a.protocol)}
    for name in {*a.settings, *b.settings} - own if not a.untrained else ():
        values = [run.settings.get(name, getattr(Settings, name, None)) for run in (a, b)]
        if values[0] != values[1]:
            yield name


def seeds(store: Store) -> None:
    """No two seeds of a row that trained have the same file of ranks or the same curve."""
    check_seeds(
        SeedOfRow(f"entry {entry.entry}", record, entry.ranks_sha256) for entry, record in store.records
    )


def records(store: Store) -> None:
    """Every record counts: its metrics follow from its ranks, and it is of the run that its path names."""
    for entry in store.index.entries:
        read_result(entry.place(store.results))


def history(store: Store) -> None:
    """No commit, whatever its date, removed or changed a line of the index, or a file that it names."""
    check_history(store.results)


QUICK = (chain, files, unnamed, bundles, protocols, seeds)
"""Checks that take a second, and one more for each bundle."""
CHECKS: tuple[Callable[[Store], Any], ...] = (*QUICK, records, head, history)


def check_store(results: Path, head: str = "", seconds: int = 600) -> list[Finding]:
    """Make the checks of a store, and no more where its index or its files do not hold.

    `head` is the checksum of an entry that it is known to have had, and `seconds` the time for each bundle.
    Raises `UserError` where the folder has no index.
    """
    if not (results / INDEX).is_file():
        raise UserError(
            f"{results} has no {INDEX}: it is no store, but a folder of local records, which reports "
            "check whenever they read them. `adaptrec add` begins a store."
        )
    store, found = Store(results, head, seconds), list[Finding]()
    for check in CHECKS:
        promise = (check.__doc__ or "").split("\n", 1)[0].rstrip(".")
        fault = ""
        try:
            check(store)
        except SkippedError as reason:
            promise = f"skipped: {reason}"
        except UserError as error:
            fault = str(error)
        found.append(Finding(LEVEL, check.__name__, promise, fault))
        if fault and check in (chain, files):
            break
    return found
