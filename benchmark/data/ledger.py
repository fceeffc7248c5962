"""Which files of a publisher a recipe has used: size and SHA-256 at first use, checked ever after."""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmark.data.places import LEDGER, read_ledger
from benchmark.record import write_json
from methods.errors import UserError


class Ledger:
    """The files of a recipe, by name, in `files.json` of the folder where its downloads lie.

    It stands in the cache, not beside the files, as those may lie where nothing can be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
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
        state = path.stat()
        seen = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "path": str(path.resolve())}
        entry = self._entries.get(path.name, {})
        if all(entry.get(key) == value for key, value in seen.items()):
            return
        sha256 = _digest(path)
        if entry.get("sha256", sha256) != sha256:
            raise UserError(
                f"{path} is not the file of this name that was used first: SHA-256 {entry['sha256'][:12]}... "
                f"({entry['size']:,} bytes) then, {sha256[:12]}... ({state.st_size:,} bytes) now. Put the "
                "first one back (a download: delete it, and it is fetched again), or delete "
                f"{self.path} to use this one from now on, under new names of prepared data and records."
            )
        source = {"url": url} if url else {key: value for key, value in entry.items() if key == "url"}
        self._entries[path.name] = {**seen, **source, "sha256": sha256}
        write_json(self.path, self._entries)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
