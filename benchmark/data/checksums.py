"""SHA-256 of input files: computed once a file, and compared with those of the files that were used first."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.data.paths import CHECKSUMS, read_checksums
from benchmark.files import DamagedError, digest_of, read_checked, write_checked
from methods.errors import UserError

SETTLED_SECONDS = 2.0
"""Seconds since its last change after which a file is remembered: within a clock tick it could change again
without its times changing."""


def remembered_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes, from `cache` where the file is the one of an earlier call.

    That is, path, size, inode and both times are the same. The time of the last change of the inode (ctime)
    cannot be set: it reveals a change after which the time of modification was restored, as `cp -p`,
    `rsync -t` and archivers do. A file system without ctime is trusted in the other four.
    """
    file = path.resolve()
    before = _known(file)
    memory = cache / "digests" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, DamagedError):
        stored = read_checked(memory, (*before, "sha256"))
        if {name: stored[name] for name in before} == before:
            return str(stored["sha256"])
    sha256 = digest_of(file)
    last = max(before["mtime_ns"], before["ctime_ns"]) / 1e9
    if time.time() - last > SETTLED_SECONDS and _known(file) == before:
        with suppress(OSError):  # reported where the cache is needed
            write_checked(memory, {**before, "sha256": sha256})
    return sha256


def _known(file: Path) -> dict[str, Any]:
    """What a file is known by, without reading it."""
    status = file.stat()
    times = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    return {"path": str(file), "size": status.st_size, "inode": status.st_ino, **times}


class Checksums:
    """The files of a recipe, by name, in `files.json` of the folder where its downloads lie.

    It is in the cache, not in the folder of the files, as that may be read-only.
    """

    def __init__(self, folder: Path, cache: Path, writable: bool) -> None:
        self.path, self._cache, self.writable = folder / CHECKSUMS, cache, writable
        try:
            self._entries = read_checksums(folder)
        except DamagedError as error:
            raise UserError(
                f"{self.path} is damaged ({error}); delete it, and the files are taken as they then are."
            ) from error

    def fetched(self, path: Path, url: str) -> None:
        """Note where a file has just come from, and what it was when it arrived."""
        new = {"url": url, "fetched": digest_of(path)}
        self._write({path.name: {**self._entries.get(path.name, {}), **new}})

    def record(self, paths: Iterable[Path]) -> None:
        """Note the files that a dataset has been prepared from: not before, as a damaged file is none to keep
        to. Raises `UserError` where one is not that of the first time."""
        self._write({path.name: {**self._entries.get(path.name, {}), **self.check(path)} for path in paths})

    def check(self, path: Path) -> dict[str, Any]:
        """What the file is; raises `UserError` where it is not the one that was used first."""
        entry = self._entries.get(path.name, {})
        size, sha256 = path.stat().st_size, remembered_digest(path, self._cache)
        unused = "sha256" not in entry and path.parent == self.path.parent
        if unused and entry.get("fetched", sha256) != sha256:
            raise UserError(
                f"{path} has changed since it was fetched; delete it, and it is fetched again, or delete "
                f"{self.path} to use the file as it is."
            )
        if entry.get("sha256", sha256) != sha256:
            raise UserError(
                f"{path} is not the file of this name that was used first: SHA-256 {entry['sha256'][:12]}... "
                f"({entry.get('size', 0):,} bytes) then, {sha256[:12]}... ({size:,} bytes) now. Put the "
                "first one back (a download: delete it, and it is fetched again), or delete "
                f"{self.path} to use this one from now on, under new names of prepared data and records."
            )
        return {"path": str(path.resolve()), "size": size, "sha256": sha256}

    def used(self, names: Iterable[str]) -> tuple[str, str] | None:
        """The first of these names under which a file was used, and its SHA-256."""
        known = ((name, self._entries.get(name, {}).get("sha256")) for name in names)
        return next(((name, str(sha256)) for name, sha256 in known if sha256), None)

    def _write(self, entries: dict[str, dict[str, Any]]) -> None:
        """Replace what is noted of some files, where that changes anything and the cache can be written."""
        merged = self._entries | entries
        if merged != self._entries and self.writable:
            self._entries = merged
            write_checked(self.path, {"files": merged})
