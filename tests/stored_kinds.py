"""All kinds of files that are stored and read again: where they lie, and where their checksums stand.

A test damages a file of every kind in every way, and fails where a stored file belongs to none of them: a new
kind of file has a line here, and something that reads it there (tests/test_stored_files.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Literal

Root = Literal["cache", "results", "report", "model"]
CELL = "*/*/*/*-s*"
"""A cell's files below the folder of results, without their endings."""


@dataclass(frozen=True)
class Kind:
    """A kind of files."""

    name: str
    root: Root
    """The folder that the harness was given: of the cache, of results, of a report, of a model."""
    patterns: tuple[str, ...]
    """Their paths below it; `*` stays within a name."""
    checksum: str
    """Where it stands; what makes one needless."""


KINDS = (
    Kind("input files, fetched", "cache", ("raw/*/*",), "`files.json` beside them"),
    Kind("part of a download", "cache", ("raw/*/*.part",), "`.part.json` beside it"),
    Kind("description of a part", "cache", ("raw/*/*.part.json",), "its field `checksum`"),
    Kind("ledger of input files", "cache", ("raw/*/files.json",), "its field `checksum`"),
    Kind("remembered digests", "cache", ("digests/*.json",), "its field `checksum`"),
    Kind("prepared data", "cache", ("prepared/*/*.arrow",), "`fingerprint.json` beside them"),
    Kind("fingerprint", "cache", ("prepared/*/fingerprint.json",), "its field `content_digest`"),
    Kind("architectures of language models", "cache", ("architectures/*.json",), "its field `checksum`"),
    Kind("hidden states", "cache", ("states/*/layer-*.safetensors",), "`states.json` beside them"),
    Kind("description of states", "cache", ("states/*/states.json",), "its field `checksum`"),
    Kind("unfinished states", "cache", ("states/*/parts-*/states.safetensors",), "its journal"),
    Kind("journal of unfinished states", "cache", ("states/*/parts-*/journal.json",), "its field `checksum`"),
    Kind("locks", "cache", ("prepared/*.lock", "states/*.lock", "raw/*/.lock"), "none: they are empty"),
    Kind("checkpoint, last epoch", "results", (f"{CELL}.checkpoint/last.pt",), "its last line"),
    Kind("checkpoint, best epoch", "results", (f"{CELL}.checkpoint/best-*.pt",), "its last line"),
    Kind("records", "results", (f"{CELL}.json",), "its field `checksum`; metrics follow from the ranks"),
    Kind("ranks", "results", (f"{CELL}.ranks.parquet",), "the record's field `ranks_sha256`"),
    Kind("best items of users", "results", (f"{CELL}.top.parquet",), "the record's field `top_sha256`"),
    Kind("kept model", "results", (f"{CELL}.model.safetensors",), "the record's field `model_sha256`"),
    Kind("description of a model folder", "model", ("config.json",), "its field `checksum`"),
    Kind("model folder", "model", ("*.safetensors", "items.parquet"), "`config.json` beside them"),
    Kind("model card", "model", ("README.md",), "none: no command reads it"),
    Kind("list of a report's files", "report", ("manifest.json",), "none: the next report writes it anew"),
    Kind("a report's files", "report", ("*",), "none: no command reads them"),
)


def kind_of(root: Root, place: PurePath) -> Kind | None:
    """The kind of the file at `place` below its root: of several, the one whose pattern says most."""
    found = [
        (len(pattern), kind)
        for kind in KINDS
        for pattern in kind.patterns
        if kind.root == root and _matches(place.parts, pattern.split("/"))
    ]
    return max(found, key=lambda one: one[0])[1] if found else None


def _matches(parts: tuple[str, ...], patterns: list[str]) -> bool:
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
