"""Add records to the index of a store: those of the project, or those of a submitted bundle.

Everything is checked before anything is written, files come before the index, and the index is replaced as a
whole. A command that was stopped has added all of its records or none, and can be given again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmark.data.recipe import NO_OPTIONS, FolderOptions
from benchmark.files import digest_of, write_atomically
from benchmark.process.locks import held
from benchmark.results.index import (
    INDEX,
    PROJECT,
    REPLACED,
    SUBMITTED,
    Entry,
    Index,
    keep,
    read_index,
    seal,
    take_away,
    write_index,
)
from benchmark.results.record import RunRecord, below_results, ranks_path, read_record, top_path
from benchmark.verify.bundle import drafted
from benchmark.verify.format import RUNS, SUFFIX, check_submitter, shown
from benchmark.verify.guard import Request, verify_guarded
from benchmark.verify.indexed import Store, check_alike
from benchmark.verify.levels import Verdict, verify
from benchmark.verify.opened import opening
from benchmark.verify.seeds import SeedOfRow, check_seeds
from benchmark.verify.truth import prepared_data
from methods.errors import UserError

_NAME = re.compile(r"[0-9a-f]{12}-s[0-9]{1,10}\.json")
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Addition:
    """What is to be added, and how."""

    sources: Sequence[Path]
    """Records, folders of records, or bundles."""
    by: str = ""
    """Who submitted the bundles."""
    level: str = "L2"
    """The level that everything must reach."""
    data: Sequence[str] = ()
    """Datasets at hand, for L3 and L4: names of recipes or folders."""
    reading: FolderOptions = NO_OPTIONS
    replaces: Sequence[int] = ()
    """Entries that the new ones correct, where that does not follow from their paths."""
    because: str = ""
    """Why."""
    seconds: int = 600
    """Time for the check of a bundle."""


@dataclass(frozen=True)
class Candidate:
    """A record that may be added, with its files as they were read."""

    record: str
    """Its path below the store."""
    files: dict[str, bytes]
    """Path below the store -> content, of the record and of the files beside it."""
    level: str
    bundle: str | None = None
    bundle_sha256: str | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Path below the store -> SHA-256."""
        return {file: _digest(content) for file, content in self.files.items()}


@dataclass(frozen=True)
class Added:
    """What became of the sources."""

    entries: list[Entry]
    known: int
    """Records of folders that were in the index already."""
    head: str
    """Checksum of the last entry of the index."""


def add(results: Path, wanted: Addition) -> Added:
    """Add records to the index of the store `results`, with their files where they lie elsewhere.

    Raises `UserError`, and then nothing is added.
    """
    if not results.is_dir():
        raise UserError(f"there is no folder {results}; give that of the store by --results.")
    with held(results / f"{INDEX}.lock") as writable:
        if not writable:
            raise UserError(f"the folder {results} cannot be written; make it writable.")
        index = read_index(results)
        number, before = len(index.entries), dict(index.latest)
        if any(source.name.endswith(SUFFIX) for source in wanted.sources):
            found, known = list(_submitted(results, index, wanted)), 0
        else:
            found, known = _own(results, index, wanted)
        pairs = _paired(found, index, wanted)
        for candidate, replaced in pairs:
            _check_room(results, candidate, before.get(candidate.record))
            index.add(_sealed(index, candidate, replaced, wanted))
        _check_alike(Store(results), found)
        for candidate in found:
            if same := before.get(candidate.record):
                keep(results, same)
            for file, content in candidate.files.items():
                if not _holds(results / file, content):
                    write_atomically(results / file, content)
        # a record of the project that one at another path corrects: no table shows it any more
        gone = [old for new, old in pairs if old and old.by == PROJECT and old.record != new.record]
        for entry in gone:
            keep(results, entry)
        if found:
            write_index(results, index)
        for entry in gone:
            take_away(results, entry)
        return Added(index.entries[number:], known, index.last)


def _sealed(index: Index, candidate: Candidate, replaced: Entry | None, wanted: Addition) -> Entry:
    digests, record = candidate.digests, Path(candidate.record)
    return seal(
        index.last,
        entry=len(index.entries) + 1,
        record=candidate.record,
        sha256=digests[candidate.record],
        ranks_sha256=digests[ranks_path(record).as_posix()],
        top_sha256=digests.get(top_path(record).as_posix()),
        added=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        by=wanted.by or PROJECT,
        level=candidate.level,
        bundle=candidate.bundle,
        bundle_sha256=candidate.bundle_sha256,
        replaces=replaced.entry if replaced else None,
        because=wanted.because if replaced else None,
    )


# --- Records of the project -------------------------------------------------------------------------------


def _own(results: Path, index: Index, wanted: Addition) -> tuple[list[Candidate], int]:
    """The records of files and folders, and how many of the folders' are in the index already."""
    if wanted.by:
        raise UserError("--by is of bundles: it says who submitted them. Leave it out for your own records.")
    found: dict[str, Candidate] = {}
    paths: dict[str, Path] = {}
    known = 0
    for source in wanted.sources:
        files = _records_below(source) if source.is_dir() else [source]
        if source.is_dir() and not files:
            raise UserError(f"there are no records of finished runs below {source}.")
        for path in files:
            place = _place(path, results)
            candidate, same = Candidate(place, _read(path, place), wanted.level), index.latest.get(place)
            if same and same.files == candidate.digests:
                if not source.is_dir():
                    raise UserError(f"{path} is in the index already: entry {same.entry}.")
                known += 1
            elif paths.setdefault(place, path) != path:
                raise UserError(f"{path} and {paths[place]} are records of one run; give one of them.")
            else:
                found[place] = candidate
    _check_level(results, paths, wanted)
    return [found[place] for place in sorted(found)], known


def _records_below(folder: Path) -> list[Path]:
    """The records of finished runs in a folder of results or a part of it, not in such folders inside it."""
    paths = sorted(path for path in folder.rglob("*-s*.json") if _NAME.fullmatch(path.name))
    near = [path for path in paths if len(path.relative_to(folder).parts) <= 4]
    return [path for path in near if read_record(path).status == "ok"]


def _place(path: Path, results: Path) -> str:
    """Where a record lies in the store, or goes to."""
    full, root = path.resolve(), results.resolve()
    if full.is_relative_to(root / SUBMITTED) or full.is_relative_to(root / REPLACED):
        raise UserError(f"{path} is a record of an entry; give a bundle, or a record of your own.")
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else below_results(full)


def _read(path: Path, place: str) -> dict[str, bytes]:
    """The files of a record, by where they go to."""
    if not path.is_file():
        raise UserError(f"there is no record {path}.")
    pairs = zip(_with_siblings(str(path)), _with_siblings(place), strict=True)
    return {target: Path(file).read_bytes() for file, target in pairs if Path(file).exists()}


def _with_siblings(record: str) -> tuple[str, str, str]:
    """The paths of a record, its ranks and its lists."""
    return record, ranks_path(Path(record)).as_posix(), top_path(Path(record)).as_posix()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_level(results: Path, paths: dict[str, Path], wanted: Addition) -> None:
    """Verify records, by where they go to, as a bundle of them would be."""
    data = prepared_data(tuple(wanted.data), wanted.reading) if wanted.data else []
    stores: dict[str, list[Path]] = {}  # a bundle has each run once, and a folder inside the store its own
    for place, path in paths.items():
        stores.setdefault(place.rsplit("/", 4)[0] if place.count("/") > 3 else "", []).append(path)
    for same in stores.values():
        with drafted(same, f"records{SUFFIX}") as draft:
            _require(verify(draft, wanted.level, data, results), wanted.level, "these records reach")


def _require(verdict: Verdict, level: str, who: str) -> None:
    if not verdict.reaches(level):
        raise UserError(
            f"{who} level {verdict.reached or 'none'}, and {level} is needed: {verdict.faults[0]} "
            "Nothing was added."
        )


# --- Bundles ----------------------------------------------------------------------------------------------


def _submitted(results: Path, index: Index, wanted: Addition) -> Iterator[Candidate]:
    """The records of bundles, each with the bundle itself among its files."""
    if not wanted.by:
        raise UserError("a bundle needs --by NAME: who submitted it.")
    check_submitter(wanted.by)
    paths: dict[str, Path] = {}
    for source in wanted.sources:
        if not source.name.endswith(SUFFIX):
            raise UserError(f"{source} is no bundle; add records of your own by a command of their own.")
        stem = source.name.removesuffix(SUFFIX)
        if not _STEM.fullmatch(stem) or stem.lower().endswith(SUFFIX):
            raise UserError(
                f"the bundle {shown(source.name)} must have a name of at most 80 letters, digits, '.', '_' "
                f"and '-' before {SUFFIX}, which stands at its end alone."
            )
        if (other := paths.setdefault(stem.lower(), source)) is not source:  # a disk may ignore case
            raise UserError(f"{source} and {other} have one file name; rename one, or give one of them.")
        digest = digest_of(source) if source.is_file() else None
        if same := next((entry for entry in index.entries if digest and entry.bundle_sha256 == digest), None):
            raise UserError(f"{source} is in the index already: entry {same.entry}.")
        request = Request(source, wanted.level, wanted.seconds, tuple(wanted.data), wanted.reading, results)
        verdict = verify_guarded(request)
        _require(verdict, wanted.level, f"{source} reaches")
        yield from _unpacked(source, stem, verdict)


def _unpacked(source: Path, stem: str, verdict: Verdict) -> Iterator[Candidate]:
    with opening(source) as bundle:
        if bundle.digest != verdict.digest:
            raise UserError(f"{source} changed while it was verified; give it again.")
        members = {name: bundle.archive.read(name) for name in bundle.archive.members}
    whole = {f"{SUBMITTED}/{source.name}": source.read_bytes()}
    for name in [name for name in members if name.startswith(f"{RUNS}/") and name.endswith(".json")]:
        place = f"{SUBMITTED}/{stem}/{name.removeprefix(f'{RUNS}/')}"
        pairs = zip(_with_siblings(name), _with_siblings(place), strict=True)
        files = {target: members[member] for member, target in pairs if member in members}
        assert verdict.reached is not None
        yield Candidate(place, files | whole, verdict.reached, source.name, verdict.digest)


# --- What is replaced, and where there is room -------------------------------------------------------------


def _paired(
    found: Sequence[Candidate], index: Index, wanted: Addition
) -> list[tuple[Candidate, Entry | None]]:
    """Each candidate with the entry that it corrects."""
    named = [index.replaceable(number) for number in dict.fromkeys(wanted.replaces)]
    pairs: list[tuple[Candidate, Entry | None]] = []
    for candidate in found:
        same = index.standing.get(candidate.record)
        run = "/".join(candidate.record.split("/")[-4:])
        alike = [entry for entry in named if entry.run == run] if len(found) > 1 else named[:1]
        replaced = same or next(iter(alike), None)
        if alike and replaced not in alike:
            raise UserError(f"{candidate.record} replaces the entry of its path alone; name no other.")
        if replaced:
            _check_replaced(candidate, replaced, wanted)
        pairs.append((candidate, replaced))
    used = {replaced.entry for _, replaced in pairs if replaced}
    if unused := [entry for entry in named if entry.entry not in used]:
        raise UserError(f"entry {unused[0].entry} is of {unused[0].run}, which is not to be added.")
    if wanted.because and not used:
        raise UserError("--because says why entries are replaced, and these records replace none.")
    return pairs


def _check_replaced(candidate: Candidate, replaced: Entry, wanted: Addition) -> None:
    """A correction is of the same dataset, language model and method, and of the same submitter."""
    if not wanted.because:
        raise UserError(
            f"{candidate.record} would replace entry {replaced.entry}. Say why by --because TEXT; or, if "
            "it was changed by mistake, put the files of the entry back."
        )
    if candidate.record.split("/")[-4:-1] != replaced.run.split("/")[:-1]:
        raise UserError(
            f"{candidate.record} cannot replace entry {replaced.entry}, which is {replaced.run}: another "
            "dataset, language model or method. Name an entry of the same."
        )
    if candidate.bundle and replaced.by != wanted.by:
        raise UserError(
            f"entry {replaced.entry} was added by {shown(replaced.by)}, and a bundle of {shown(wanted.by)} "
            "cannot replace it. Name an entry of the same submitter."
        )


def _check_alike(store: Store, found: Sequence[Candidate]) -> None:
    """What is added contradicts no entry, which `adaptrec verify` of the store would refuse ever after."""
    places = [(entry, entry.place(store.results)) for entry in store.index.entries]
    runs = [
        SeedOfRow(f"entry {entry.entry}", read_record(path), entry.ranks_sha256)
        for entry, path in places
        if path.is_file()
    ]
    for each in found:
        record, ranks = RunRecord.model_validate_json(each.files[each.record]), ranks_path(Path(each.record))
        runs.append(SeedOfRow(each.record, record, each.digests[ranks.as_posix()]))
    check_alike((run.name, run.record) for run in runs)
    check_seeds(runs)


def _check_room(results: Path, candidate: Candidate, same: Entry | None) -> None:
    """No file is written over that the store must keep or that is in no entry."""
    if same and (lost := next(same.lacks(results), None)):
        raise UserError(
            f"{results / lost} is not as entry {same.entry} has it, and the store must not lose that: take "
            f"it from an earlier commit, to {results / same.kept(lost)}."
        )
    for file, content in candidate.files.items():
        path = results / file
        if not path.exists() or _holds(path, content):
            continue
        if not (same and same.files.get(file) == digest_of(path)):
            raise UserError(f"{path} is there, is another file, and is in no entry; move it away.")


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
