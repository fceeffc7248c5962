"""The files of a recipe: located on this machine or fetched, and always checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmark.data.checksums import Checksums
from benchmark.data.formats import folder_files
from benchmark.data.paths import DATA_VARIABLE, data_folder, file_name, locate, raw_folder
from benchmark.data.recipe import Recipe
from benchmark.files import DamagedError, held, lacks, read_checked, remove_abandoned
from methods.errors import UserError

MIRROR_VARIABLE = "ADAPTREC_DATA_MIRROR"
"""Environment variable: a base URL that replaces all official sources; below it, <recipe>/<file name>."""


def fetch(recipe: Recipe, cache: Path) -> dict[str, Path]:
    """Role -> file of `recipe`, on this machine, whole, and the one that was used before.

    Processes that want the same files wait for each other. Raises `UserError`: what is missing, where it can
    be had and where to put it; or which file has changed.
    """
    with _checksums(recipe, cache) as checksums:
        files: dict[str, Path] = {}
        for role, urls in recipe.files.items():
            path = locate(recipe.name, recipe.source, urls, cache)
            if path is None and not checksums.writable:
                raise lacks(raw_folder(recipe.name, cache), f"{_names(urls)}, to which it would be fetched")
            if path is None:
                path, url = _download(recipe, urls, cache, checksums)
                checksums.fetched(path, url)
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
            path = locate(recipe.name, recipe.source, urls, cache)
            if path is not None:
                digests[role] = checksums.check(path)["sha256"]
            elif used := checksums.used(map(file_name, urls)):
                digests[role] = used[1]
                gone.append(used[0])
    return digests, gone


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
    for part in {*folder.glob("*.part"), *(path.with_suffix("") for path in folder.glob("*.part.json"))}:
        description = part.with_name(part.name + ".json")
        try:
            fields = read_checked(description, ("url", "size", "stamp", "bytes", "sha256"))
            useful = part.exists() and fields["stamp"] and fields["size"]
        except (FileNotFoundError, DamagedError):
            useful = False
        if not useful or part.with_suffix("").exists():
            part.unlink(missing_ok=True)
            description.unlink(missing_ok=True)


def _download(recipe: Recipe, urls: Sequence[str], cache: Path, checksums: Checksums) -> tuple[Path, str]:
    """Fetch a file from the first mirror that gives it; returns it and its URL."""
    from benchmark.data.transfer import UnavailableError, transfer  # its libraries are slow to import

    root, failures = data_folder(), dict[str, list[str]]()
    if root:
        print(f"{_names(urls)}: neither in {root / recipe.name} nor in {root}", file=sys.stderr, flush=True)
    for url in mirrors(recipe.name, urls):
        target = raw_folder(recipe.name, cache) / file_name(url)
        try:
            used = checksums.used([target.name])
            transfer(url, target, used[1] if used else None)
            return target, url
        except UnavailableError as error:
            host = urlsplit(url).netloc if url.startswith("http") else url
            failures.setdefault(str(error), []).append(url if error.reached else host)
    faults = [f"{fault}: {', '.join(sources)}" for fault, sources in failures.items()]
    why = "; ".join(faults) or "no source is known"
    raise UserError(f"{_names(urls)} of '{recipe.name}' cannot be fetched ({why}). {_by_hand(recipe, cache)}")


def mirrors(name: str, urls: Sequence[str]) -> list[str]:
    """Where to fetch a file from, in order; an entry without a scheme is a file that the user puts there."""
    base = os.environ.get(MIRROR_VARIABLE)
    if base:
        return list(dict.fromkeys(f"{base.rstrip('/')}/{name}/{file_name(url)}" for url in urls))
    return [url for url in urls if "://" in url]


def _names(urls: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(map(file_name, urls)))


def _by_hand(recipe: Recipe, cache: Path) -> str:
    """Which files to put where."""
    root = data_folder()
    place = root / recipe.name if root else raw_folder(recipe.name, cache)
    missing = [
        urls for urls in recipe.files.values() if locate(recipe.name, recipe.source, urls, cache) is None
    ]
    files = ", ".join(f"{_names(urls)} (from {urls[0]})" for urls in missing)
    other = "another folder with --data-dir" if root else f"a folder that --data-dir or {DATA_VARIABLE} names"
    return f"By hand: put {files} into {place}, or into {other}."


def input_files(recipe: Recipe, cache: Path) -> dict[str, Path]:
    """Role -> file that the recipe reads, none for a synthetic set; fetches publishers' files into `cache`.

    Raises `UserError` when one is missing, cannot be fetched, or is not the one that was used before.
    """
    if recipe.files:
        return fetch(recipe, cache)
    return folder_files(recipe.source, recipe.format) if recipe.source else {}
