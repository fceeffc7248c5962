"""The format of a bundle: which members it has, how large they may be, what its manifest says.

A bundle is a plain zip archive whose members are stored and not compressed, in the order of their names and
with fixed times: the same records give the same bytes on every machine. docs/verify.md describes it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pydantic import Field, ValidationError

from benchmark.config import first_fault
from benchmark.escape import visible_line
from benchmark.results.index import BUNDLE_SUFFIX, PLAIN, misleads
from benchmark.results.schema import Count, Part
from methods.errors import UserError

FORMAT = "adaptrec bundle"
VERSION = 1
READS = (1,)
"""Format versions that are read."""
SUFFIX = BUNDLE_SUFFIX
MANIFEST = "manifest.json"
RUNS = "runs"
"""Folder of the records and the files beside them, as they lie below a folder of results."""
SOURCES = "sources"
"""Folder of the source of methods that other packages brought: text, which nothing runs."""

MOST_BYTES = 2**30
"""Largest bundle, and so the largest sum of its members, which are not compressed."""
MOST_MEMBERS = 4_096
MOST_JSON = 2**24
"""Bytes of a JSON member."""
MOST_NAME = 400
"""Bytes of the name of a member."""
MOST_TARGETS = 10_000_000
"""Rows of a table of ranks or lists."""
DEEPEST = 32
"""Levels of nesting in JSON."""
MOST_DIGITS = 18
"""Digits of a whole number in JSON."""

_RUN = r"(?:[\w][\w.+@ -]*/){3}[0-9a-f]{12}-s[0-9]{1,10}"
_KINDS = (
    re.compile(re.escape(MANIFEST)),
    re.compile(rf"{RUNS}/{_RUN}\.(?:json|ranks\.parquet|top\.parquet|items\.npy|users\.npy)"),
    re.compile(rf"{SOURCES}/[\w][\w.+-]*/[\w][\w.]*\.py"),
)


def items_path(record_path: Path) -> Path:
    """Where the embeddings of all items `[I, d]` lie, as they are scored."""
    return record_path.with_suffix(".items.npy")


def states_path(record_path: Path) -> Path:
    """Where the states of users `[T, d]` lie, as they are scored: one for each test target."""
    return record_path.with_suffix(".users.npy")


class FileEntry(Part):
    """A file of a bundle."""

    path: str
    bytes: Count
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(Part):
    """What a bundle holds: all its files but this list."""

    format: str = FORMAT
    version: int = VERSION
    files: list[FileEntry]
    """In the order of their paths."""

    def content(self) -> bytes:
        """The only bytes that a manifest with these fields has."""
        return (json.dumps(self.model_dump(), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def manifest_of(fields: object) -> Manifest:
    """The manifest with these fields; raises `UserError` for another format or version, and for a fault."""
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise UserError(f"{MANIFEST} does not say that this is an '{FORMAT}'.")
    version = fields.get("version")
    if type(version) is not int or version not in READS:
        listed = " and ".join(map(str, READS))
        raise UserError(
            f"{MANIFEST} has format version {shown(version)}, which is unknown; this version of AdaptRec "
            f"reads {listed}."
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{MANIFEST} is not a manifest: {shown(first_fault(error))}.") from error


def check_name(name: str) -> None:
    """Raise `UserError` unless `name` can be that of a member of a bundle."""
    what = f"the member {shown(name)}"
    parts = PurePosixPath(name).parts
    if len(name.encode(errors="replace")) > MOST_NAME:
        raise UserError(f"{what} has a name of more than {MOST_NAME} bytes.")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise UserError(f"{what} has an absolute path.")
    if ".." in name.split("/") or ".." in name.split("\\"):
        raise UserError(f"{what} leads out of the archive by '..'.")
    if "\\" in name:
        raise UserError(f"{what} has a backslash in its name.")
    if name.endswith("/"):
        raise UserError(f"{what} is a folder; a bundle has files alone.")
    if "/".join(parts) != name or unicodedata.normalize("NFC", name) != name:
        raise UserError(f"{what} has a path in more than one spelling.")
    if not any(kind.fullmatch(name) for kind in _KINDS):
        raise UserError(f"{what} is none of the files that a bundle has.")


def check_distinct(names: Iterable[str]) -> None:
    """Raise `UserError` where two names are one, on a disk that ignores case too."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name.casefold()), name)
        if other is not name and other == name:
            raise UserError(f"the member {shown(name)} is there twice.")
        if other != name:
            raise UserError(f"the members {shown(other)} and {shown(name)} differ by case alone.")


def check_plain(what: str, name: str) -> None:
    """Raise `UserError` where a name has a character that a terminal, HTML, LaTeX or Markdown would obey."""
    if not PLAIN.fullmatch(name):
        wrong = next((character for character in name if not PLAIN.fullmatch(character)), "")
        raise UserError(f"{what} is no plain name: {shown(name)}" + (f" has {wrong!a}." if wrong else "."))


def check_submitter(name: str) -> None:
    """Raise `UserError` unless `name` can be that of whoever submits a bundle."""
    check_plain("--by", name)
    if why := misleads(name):
        raise UserError(f"--by {shown(name)} {why}")


def shown(value: object) -> str:
    """Text of a bundle as a message prints it: in quotes, without control characters, at most 120 long."""
    text = visible_line(str(value))
    return f"'{text[:117]}...'" if len(text) > 120 else f"'{text}'"
