"""Which files of a publisher a recipe has used: size and SHA-256 at first use, checked ever after."""

from __future__ import annotations

from pathlib import Path

from benchmark.data.digests import remembered_digest
from benchmark.data.places import LEDGER, read_ledger
from benchmark.record import write_json
from methods.errors import UserError


class Ledger:
    """The files of a recipe, by name, in `files.json` of the folder where its downloads lie.

    It stands in the cache, not beside the files, as those may lie where nothing can be written.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.path, self._cache = folder / LEDGER, cache
        try:
            self._entries = read_ledger(folder)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path} cannot be read ({error}); delete it, and the files are taken as they then are."
            ) from error

    def check(self, path: Path, url: str | None = None) -> None:
        """Record the file at its first use; raise `UserError` where it is not the one of then.

        `url` says where it has just been fetched from.
        """
        entry = self._entries.get(path.name, {})
        size, sha256 = path.stat().st_size, remembered_digest(path, self._cache)
        if entry.get("sha256", sha256) != sha256:
            raise UserError(
                f"{path} is not the file of this name that was used first: SHA-256 {entry['sha256'][:12]}... "
                f"({entry.get('size', 0):,} bytes) then, {sha256[:12]}... ({size:,} bytes) now. Put the "
                "first one back (a download: delete it, and it is fetched again), or delete "
                f"{self.path} to use this one from now on, under new names of prepared data and records."
            )
        source = {"url": url} if url else {key: entry[key] for key in ("url",) if key in entry}
        found = {"path": str(path.resolve()), "size": size, "sha256": sha256, **source}
        if found != entry:
            self._entries[path.name] = found
            write_json(self.path, self._entries)
