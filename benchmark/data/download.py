"""The files of a recipe: located on this machine or fetched, and always the ones that were used first."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmark.data.formats import DATA_VARIABLE, data_folder, file_name, file_names, folder_files
from benchmark.data.recipe import Recipe
from benchmark.data.transfer import PartialFile, UnavailableError, transfer
from benchmark.files import (
    DamagedError,
    digest_of,
    lacks,
    read_checked,
    remove_abandoned,
    write_checked,
)
from benchmark.process.locks import held
from methods.errors import UserError

MIRROR_VARIABLE = "ADAPTREC_DATA_MIRROR"
"""Environment variable: a base URL that replaces all official sources; below it, <recipe>/<file name>."""
CHECKSUMS = "files.json"
"""In the folder of a recipe's raw files: which were used first, their size and SHA-256."""
SETTLED_SECONDS = 2.0
"""Seconds since its last change after which a file is remembered: within a clock tick it could change again
without its times changing."""
Entries = dict[str, dict[str, Any]]
"""File name -> what is recorded of it."""


def raw_folder(name: str, cache: Path) -> Path:
    """Where the recipe's downloads lie."""
    return cache / "raw" / name


def input_files(recipe: Recipe, cache: Path) -> dict[str, Path]:
    """Role -> file that the recipe reads, none for a synthetic set; fetches publishers' files into `cache`.

    Raises `UserError` when one is missing, cannot be fetched, or is not the one that was used before.
    """
    if recipe.files:
        return fetch(recipe, cache)
    return folder_files(recipe.source, recipe.format) if recipe.source else {}


def fetch(recipe: Recipe, cache: Path) -> dict[str, Path]:
    """Role -> file of `recipe`, on this machine, whole, and the one that was used before.

    Processes that need the same files wait for each other. Raises `UserError`: what is missing, where it can
    be had and where to put it; or which file has changed.
    """
    with _checksums(recipe, cache) as checksums:
        files: dict[str, Path] = {}
        for role, urls in recipe.files.items():
            path = locate(recipe, urls, cache) or _download(recipe, urls, cache, checksums)
            checksums.check(path)
            files[role] = path
        return files


def record_checksums(recipe: Recipe, files: Iterable[Path], cache: Path) -> None:
    """Keep to `files`, from which `recipe` has been prepared: `fetch` takes no others from now on."""
    with _checksums(recipe, cache) as checksums:
        checksums.record(files)


def recorded_digests(recipe: Recipe, cache: Path) -> tuple[dict[str, str], list[str]]:
    """Role -> SHA-256 of its file, and the names of those files that are not here any more.

    A role whose file is neither here nor was ever used has none. Raises `UserError` for a file that has
    changed.
    """
    digests, gone = dict[str, str](), list[str]()
    with _checksums(recipe, cache) as checksums:
        for role, urls in recipe.files.items():
            path = locate(recipe, urls, cache)
            if path is not None:
                digests[role] = checksums.check(path)["sha256"]
            elif used := checksums.used(map(file_name, urls)):
                digests[role] = used[1]
                gone.append(used[0])
    return digests, gone


def locate(recipe: Recipe, urls: Sequence[str], cache: Path) -> Path | None:
    """A file of the recipe that is on this machine, under one of its official names.

    Searched in the folder that the user gave, in `$ADAPTREC_DATA/<name>` and `$ADAPTREC_DATA`, where it was
    when it was first used, and among the downloads.
    """
    data, downloads = data_folder(), raw_folder(recipe.name, cache)
    folders = [recipe.source, data / recipe.name, data] if data else [recipe.source]
    used: Entries = {}
    with suppress(OSError, DamagedError):  # reported when the files are checked
        used = _read_entries(downloads)
    names = list(dict.fromkeys(map(file_name, urls)))
    candidates = [folder / name for folder in folders if folder is not None for name in names]
    candidates += [Path(used[name]["path"]) for name in names if "path" in used.get(name, {})]
    candidates += [downloads / name for name in names]
    return next((path for path in candidates if path.is_file()), None)


def all_here(recipe: Recipe, cache: Path) -> bool:
    """Whether every file of the recipe is on this machine."""
    return all(locate(recipe, urls, cache) is not None for urls in recipe.files.values())


def _read_entries(folder: Path) -> Entries:
    try:
        return dict(read_checked(folder / CHECKSUMS, ("files",))["files"])
    except FileNotFoundError:
        return {}


@contextmanager
def _checksums(recipe: Recipe, cache: Path) -> Iterator[Checksums]:
    """The recipe's checksums, which no other process holds meanwhile."""
    folder = raw_folder(recipe.name, cache)
    with held(folder / ".lock") as writable:
        if writable:
            remove_abandoned(folder)
            _remove_useless_parts(folder)
        yield Checksums(folder, cache, writable)


def _remove_useless_parts(folder: Path) -> None:
    """Remove parts from which no download can go on, as killed ones leave them. The caller holds a lock."""
    parts = {*folder.glob("*.part"), *(path.with_suffix("") for path in folder.glob("*.part.json"))}
    for target in (part.with_suffix("") for part in parts):
        part = PartialFile(target)
        if target.exists() or part.described() is None:
            part.remove()


def _download(recipe: Recipe, urls: Sequence[str], cache: Path, checksums: Checksums) -> Path:
    """Fetch a file from the first mirror that gives it."""
    folder, root = raw_folder(recipe.name, cache), data_folder()
    if not checksums.writable:
        raise lacks(folder, f"{file_names(urls)}, to which it would be fetched")
    if root:
        print(
            f"{file_names(urls)}: neither in {root / recipe.name} nor in {root}", file=sys.stderr, flush=True
        )
    failures: dict[str, list[str]] = {}
    for url in _mirrors(recipe.name, urls):
        target = folder / file_name(url)
        try:
            used = checksums.used([target.name])
            transfer(url, target, used[1] if used else None)
            checksums.fetched(target, url)
            return target
        except UnavailableError as error:
            host = urlsplit(url).netloc if url.startswith("http") else url
            failures.setdefault(str(error), []).append(url if error.reached else host)
    faults = [f"{fault}: {', '.join(sources)}" for fault, sources in failures.items()]
    why = "; ".join(faults) or "no source is known"
    raise UserError(
        f"{file_names(urls)} of '{recipe.name}' cannot be fetched ({why}). {_by_hand(recipe, cache)}"
    )


def _mirrors(name: str, urls: Sequence[str]) -> list[str]:
    """Where to fetch a file from, in order; an entry without a scheme is a file that the user puts there."""
    base = os.environ.get(MIRROR_VARIABLE)
    if base:
        return list(dict.fromkeys(f"{base.rstrip('/')}/{name}/{file_name(url)}" for url in urls))
    return [url for url in urls if "://" in url]


def _by_hand(recipe: Recipe, cache: Path) -> str:
    """Which files to put where."""
    root = data_folder()
    folder = root / recipe.name if root else raw_folder(recipe.name, cache)
    missing = [urls for urls in recipe.files.values() if locate(recipe, urls, cache) is None]
    files = ", ".join(f"{file_names(urls)} (from {urls[0]})" for urls in missing)
    other = "another folder with --data-dir" if root else f"a folder that --data-dir or {DATA_VARIABLE} names"
    return f"By hand: put {files} into {folder}, or into {other}."


def remembered_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes, from `cache` where the file is the one of an earlier call.

    That is, path, size, inode and both times are the same. The time of the last change of the inode (ctime)
    cannot be set: it reveals a change after which the time of modification was restored, as `cp -p`,
    `rsync -t` and archivers do. A file system without ctime is trusted in the other four.
    """
    file = path.resolve()
    before = _identity(file)
    memory = cache / "digests" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, DamagedError):
        stored = read_checked(memory, (*before, "sha256"))
        if {name: stored[name] for name in before} == before:
            return str(stored["sha256"])
    sha256 = digest_of(file)
    last = max(before["mtime_ns"], before["ctime_ns"]) / 1e9
    if time.time() - last > SETTLED_SECONDS and _identity(file) == before:
        with suppress(OSError):  # reported where the cache is needed
            write_checked(memory, {**before, "sha256": sha256})
    return sha256


def _identity(file: Path) -> dict[str, Any]:
    """What identifies a file without reading it."""
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
            self._entries = _read_entries(folder)
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
        """Path, size and SHA-256; raises `UserError` where the file is not the one that was used first."""
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

    def _write(self, entries: Entries) -> None:
        """Replace what is noted of some files, where that changes anything and the cache can be written."""
        merged = self._entries | entries
        if merged != self._entries and self.writable:
            self._entries = merged
            write_checked(self.path, {"files": merged})
