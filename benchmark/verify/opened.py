"""A bundle while it is checked: its members, and a folder into which its files were copied."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from benchmark.files import temporary_folder
from benchmark.results.metrics import Floats, Ranks
from benchmark.results.record import RunRecord, ranks_path, read_record, top_path
from benchmark.results.schema import Fingerprint
from benchmark.results.store import StoredRun
from benchmark.results.targets import StoredRanks, load_ranks
from benchmark.verify.archive import Archive, opened
from benchmark.verify.format import MANIFEST, RUNS, Manifest, manifest_of
from benchmark.verify.strict_json import strict_json
from methods.errors import UserError


@dataclass
class BundledRun:
    """A run of a bundle: its record, and the files beside it."""

    stored: StoredRun

    @property
    def record(self) -> RunRecord:
        """Its record."""
        return self.stored.record

    @property
    def name(self) -> str:
        """`<dataset>/<llm>/<method>/<hash>-s<seed>`."""
        return self.stored.name

    @property
    def path(self) -> Path:
        """Where its record was copied to."""
        return self.stored.path

    @property
    def tables(self) -> list[Path]:
        """The tables that it has."""
        return [path for path in (ranks_path(self.path), top_path(self.path)) if path.exists()]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The counts of its data."""
        return Fingerprint.model_validate(self.record.data.get("fingerprint") or {})

    @property
    def items(self) -> int:
        """Items of its catalogue; `forms` makes sure that they are known."""
        return self.fingerprint.items or 0

    @cached_property
    def ranks(self) -> StoredRanks:
        """Its ranks, not compared with anything."""
        return load_ranks(self.path, self.record)[0]

    @property
    def splits(self) -> dict[str, Ranks | Floats]:
        """Raw and masked ranks, by the split that has their metrics."""
        return {"test": self.ranks.raw, "test_masked": self.ranks.masked}

    def fail(self, what: str) -> UserError:
        """The error that something is wrong with the run."""
        return UserError(f"{self.name}: {what}")


@dataclass
class OpenBundle:
    """A bundle that is being checked. What a check finds is here for the next ones."""

    path: Path
    digest: str
    """SHA-256 of the whole file: what names the bundle."""
    size: int
    file: BinaryIO
    folder: Path
    """A temporary folder for its files."""
    manifest: Manifest | None = None
    runs: list[BundledRun] = field(default_factory=list)

    @cached_property
    def archive(self) -> Archive:
        """Its archive, whose members are those of a bundle."""
        return opened(self.file, self.size)

    def read_manifest(self) -> Manifest:
        """Read the manifest, in its only spelling."""
        if MANIFEST not in self.archive.members:
            raise UserError(f"it has no {MANIFEST}: it is no bundle.")
        content = self.archive.read(MANIFEST)
        self.manifest = manifest_of(strict_json(content, MANIFEST))
        if self.manifest.content() != content:
            raise UserError(f"{MANIFEST} is not spelt as `adaptrec bundle` spells it.")
        return self.manifest

    def copy(self, name: str, content: bytes) -> None:
        """Copy a member into the folder; its name was checked."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def read_runs(self) -> list[BundledRun]:
        """Read all records."""
        found = sorted((self.folder / RUNS).glob("*/*/*/*.json"))
        self.runs = [BundledRun(StoredRun(path, read_record(path))) for path in found]
        return self.runs

    def plain(self, error: BaseException) -> str:
        """The message of an error, without the temporary folder."""
        return str(error).replace(f"{self.folder}/{RUNS}/", "").replace(f"{self.folder}/", "")


@contextmanager
def opening(path: Path) -> Iterator[OpenBundle]:
    """The file at `path`, and a folder that is gone afterwards. Raises `UserError` where there is no file."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"the bundle {path} {what}; give a file that `adaptrec bundle` wrote.")
    with path.open("rb") as file, temporary_folder(Path(tempfile.gettempdir()), "adaptrec-verify") as folder:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield OpenBundle(path, digest, file.tell(), file, folder)
