"""The index of a store: which records were added to it, when, by whom, and that none has changed since.

`index.jsonl` in a folder of results has one entry a line and is only ever appended to: each entry holds the
checksum of the one before it. An entry names a record with the digests of its files. A correction is a new
entry that names the one it replaces. Where the new record has the path of the old one, the old files are kept
below `replaced/<entry>/`, so that no file of an entry is ever lost. A folder of results without an index, and
a record that is in none, belong to the user alone: *local*.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from benchmark.config import first_fault
from benchmark.files import CHECKSUM, checksum_of, digest_of, write_atomically
from benchmark.results.record import ranks_path, top_path
from benchmark.results.schema import Part
from methods.errors import UserError

INDEX = "index.jsonl"
REPLACED = "replaced"
"""Folder of the files that gave their place to those of a correction."""
SUBMITTED = "submitted"
"""Folder of other people's bundles, and of the records that were taken out of them."""
PROJECT = "project"
"""Who added the records that the project made itself."""
MOST_BY = 80
"""Characters of the name of who submitted a bundle."""
START = "0" * 64
"""What the first entry holds in place of the checksum of one before it."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
PLAIN = re.compile(r"[\w./@+~:,()= -]{1,300}")
"""A name that no terminal, page or document could take for anything but text."""
_LOOK_ALIKE = {"LATIN", "GREEK", "CYRILLIC"}
"""Scripts that have letters of one shape."""
BUNDLE_SUFFIX = ".adaptrec.zip"
BundleName = Annotated[str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,79}}{re.escape(BUNDLE_SUFFIX)}$")]
_RECORD = re.compile(r"(?:[\w][\w.+@ -]*/){3,6}[0-9a-f]{12}-s[0-9]{1,10}\.json")


def misleads(name: str) -> str:
    """Why a name cannot be that of who submitted a bundle, as the rest of a sentence; empty where it can."""
    if not PLAIN.fullmatch(name):
        return "is no plain name."
    ends = name[0].isalnum() and (name[-1].isalnum() or name[-1] in ".)")
    if not ends or len(name) > MOST_BY:
        return (
            "must begin with a letter or digit, end with one, with '.' or ')', and have at most "
            f"{MOST_BY} characters."
        )
    letters = [letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum()]
    if "".join(letters) == PROJECT:
        return "marks the project's own rows; say who submitted the bundle. The project's records need none."
    if len(_LOOK_ALIKE & {unicodedata.name(letter, "").split(" ")[0] for letter in letters}) > 1:
        return "mixes Latin, Greek or Cyrillic letters, which look alike; write it in one script."
    return ""


class Entry(Part):
    """A line of the index."""

    entry: Annotated[int, Field(ge=1, strict=True)]
    """Its number, that of its line."""
    record: Annotated[str, Field(max_length=400)]
    """Path of the record below the folder of the index."""
    sha256: Digest
    ranks_sha256: Digest
    top_sha256: Digest | None
    """Null where the run stored no lists, as older ones."""
    added: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    """UTC."""
    by: Annotated[str, Field(min_length=1, max_length=MOST_BY)]
    """`project`, or who submitted the bundle."""
    level: Literal["L2", "L3", "L4"]
    """The level of docs/verify.md that the record reached when it was added."""
    bundle: BundleName | None = None
    """File name of the bundle that it came by, below `submitted/`."""
    bundle_sha256: Digest | None = None
    replaces: Annotated[int, Field(ge=1, strict=True)] | None = None
    """The entry that this one corrects."""
    because: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """Why."""
    previous: Digest
    """Checksum of the entry before this one."""
    checksum: Digest
    """SHA-256 of all other fields, as JSON with sorted keys."""

    @field_validator("by")
    @classmethod
    def _of_project_or_named(cls, by: str) -> str:
        if by != PROJECT and (why := misleads(by)):
            raise ValueError(f"{by!a} {why.removesuffix('.')}")
        return by

    @property
    def line(self) -> str:
        """The only line that an entry with these fields has."""
        return json.dumps(self.model_dump())

    @property
    def run(self) -> str:
        """`<dataset>/<llm>/<method>/<hash>-s<seed>.json`: the run, wherever its record lies."""
        return "/".join(PurePosixPath(self.record).parts[-4:])

    @property
    def files(self) -> dict[str, str]:
        """Path below the folder of the index -> SHA-256, of the record and of the files beside it."""
        path = Path(self.record)
        found = {path: self.sha256, ranks_path(path): self.ranks_sha256, top_path(path): self.top_sha256}
        return {file.as_posix(): digest for file, digest in found.items() if digest}

    def kept(self, file: str) -> str:
        """Where one of its files is kept when another record takes its place."""
        return f"{REPLACED}/{self.entry}/{file}"

    def place(self, results: Path) -> Path:
        """Where its record lies now: at its path, or where it is kept."""
        path = results / self.record
        return path if _is(path, self.sha256) else results / self.kept(self.record)

    def lacks(self, results: Path) -> Iterator[str]:
        """Its files that are neither at their place nor kept."""
        for file, digest in self.files.items():
            if not any(_is(results / place, digest) for place in (file, self.kept(file))):
                yield file


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and digest_of(path) == digest


def seal(previous: str, **fields: object) -> Entry:
    """The entry with these fields that follows the one whose checksum is `previous`; raises `UserError` where
    one of them cannot be."""
    try:
        draft = Entry.model_validate({**fields, "previous": previous, CHECKSUM: START})
    except ValidationError as error:
        raise UserError(f"there can be no such entry: {first_fault(error)}.") from error
    return draft.model_copy(update={CHECKSUM: checksum_of(draft.model_dump(exclude={CHECKSUM}))})


class Index:
    """The entries of an index, in their order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.corrections: dict[int, Entry] = {}
        """Number of an entry -> the one that replaces it."""
        self.standing: dict[str, Entry] = {}
        """Path of a record -> its entry, of those that none replaces."""
        self.latest: dict[str, Entry] = {}
        """Path of a record -> the last entry with that path: the one whose files lie there, if any do."""

    @property
    def last(self) -> str:
        """What the next entry holds of the last one."""
        return self.entries[-1].checksum if self.entries else START

    def replaceable(self, number: int) -> Entry:
        """The entry of this number, for one that replaces it; raises `UserError` where none can."""
        if not 1 <= number <= len(self.entries):
            has = f"has the entries 1 to {len(self.entries)}" if self.entries else "is empty"
            raise UserError(f"there is no entry {number} to replace: the index {has}.")
        if later := self.corrections.get(number):
            raise UserError(
                f"entry {number} was replaced by entry {later.entry}; name that one if it is meant."
            )
        return self.entries[number - 1]

    def add(self, entry: Entry) -> None:
        """Append an entry; raises `UserError` where it cannot follow."""
        self._check(entry)
        if entry.replaces:
            del self.standing[self.entries[entry.replaces - 1].record]
            self.corrections[entry.replaces] = entry
        self.standing[entry.record] = self.latest[entry.record] = entry
        self.entries.append(entry)

    def _check(self, entry: Entry) -> None:
        number = len(self.entries) + 1
        if entry.entry != number:
            raise UserError(f"its number is {entry.entry}, not {number}: a line is missing or was moved.")
        if entry.previous != self.last:
            raise UserError("it does not hold the checksum of the line before it: one of them was changed.")
        if not _RECORD.fullmatch(entry.record) or ".." in entry.record:
            raise UserError(f"{entry.record!r} is no path of a record.")
        theirs = entry.bundle is not None
        if theirs != entry.record.startswith(f"{SUBMITTED}/") or theirs != (entry.by != PROJECT):
            raise UserError(
                f"an entry by '{PROJECT}' has no bundle and lies outside {SUBMITTED}/, and any other has one "
                "and lies there."
            )
        if entry.bundle is not None:
            folder = f"{SUBMITTED}/{entry.bundle.removesuffix(BUNDLE_SUFFIX)}"
            if entry.record != f"{folder}/{entry.run}":
                raise UserError(f"{entry.record!r} does not lie in {folder}/, where {entry.bundle} goes to.")
        if (entry.replaces is None) != (entry.because is None):
            raise UserError("an entry that replaces another says why, and no other does.")
        if entry.replaces is not None:
            self.replaceable(entry.replaces)
        same = self.standing.get(entry.record)
        if same and same.entry != entry.replaces:
            raise UserError(f"entry {same.entry} has the same record, and is not the one that it replaces.")


def read_index(results: Path) -> Index:
    """The index of a folder of results; an empty one where it has none.

    Raises `UserError` naming the first line that is wrong.
    """
    path = results / INDEX
    if not path.exists():
        return Index()
    content = path.read_bytes()
    lines = content.split(b"\n")
    if lines.pop():
        raise UserError(
            f"{path}, line {len(lines) + 1}: it has no line feed at its end: something was cut off while it "
            "was written. Remove the line and add its record again."
        )
    index = Index()
    for number, line in enumerate(lines, 1):
        try:
            index.add(_parsed(line))
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error} Take the file of an earlier commit.") from error
    return index


def _parsed(line: bytes) -> Entry:
    try:
        fields = json.loads(line)
        entry = Entry.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"it is no entry: {first_fault(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError("it is not JSON.") from error
    if checksum_of(entry.model_dump(exclude={CHECKSUM})) != entry.checksum:
        raise UserError("it does not match its checksum: it was changed.")
    if entry.line.encode() != line:
        raise UserError("it is not spelt as `adaptrec add` spells it.")
    return entry


def entries_below(results: Path) -> dict[Path, Entry]:
    """Path of a record as it was added -> its entry, of those that none replaces."""
    found = {results / entry.record: entry for entry in read_index(results).standing.values()}
    return {path: entry for path, entry in found.items() if _is(path, entry.sha256)}


def write_index(results: Path, index: Index) -> None:
    """Write an index atomically. The caller holds its lock."""
    write_atomically(results / INDEX, "".join(f"{entry.line}\n" for entry in index.entries))


def keep_indexed(record_path: Path) -> None:
    """Keep the files of a record that the index names, before something writes over it.

    What then takes their place is local, and the store as whole as before.
    """
    for results in record_path.parents[3:5]:  # a folder of results, or one inside another
        if (results / INDEX).exists():
            entry = read_index(results).latest.get(record_path.relative_to(results).as_posix())
            if entry:
                keep(results, entry)


def take_away(results: Path, entry: Entry) -> None:
    """Remove the files of an entry that are kept (see `keep`) from their place."""
    for file, digest in entry.files.items():
        if _is(results / file, digest) and _is(results / entry.kept(file), digest):
            (results / file).unlink()


def keep(results: Path, entry: Entry) -> None:
    """Copy the files of an entry to where they are kept."""
    for file, digest in entry.files.items():
        if _is(results / file, digest) and not _is(results / entry.kept(file), digest):
            write_atomically(results / entry.kept(file), (results / file).read_bytes())
