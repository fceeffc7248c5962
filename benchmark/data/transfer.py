"""One file from one URL: `http(s)://`, `hf://` (Hugging Face hub) and `file://`.

What has arrived stays in a `.part` file, from which the next try, or the next run, goes on by a range
request, as long as the server still has the version of that size and ETag (or date), and the bytes are those
that arrived; else it starts anew. A file of unknown length is whole only if its digest or format proves it:
see `_is_whole`.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import sys
import time
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.request import Request

from benchmark.files import DamagedError, digest_of, read_checked, write_checked
from benchmark.process.exit_status import REFUSED_WRITE
from benchmark.process.network import classify, open_request
from benchmark.process.progress import Progress
from methods.errors import UserError

BLOCK = 8 << 20
"""Bytes between two descriptions of a part: what a cut connection or a kill loses at most."""
TRIES = 5
"""Failures in a row, without a byte more than before, until a mirror is given up."""
WAIT_SECONDS = 1.0
"""Before the second try; doubled with every further one."""
SILENT_SECONDS = 30.0
"""Until a server that does not answer, or falls silent, counts as failed."""

_STAMPS = ("ETag", "Content-MD5", "Digest", "Last-Modified")
"""Headers that identify a version of a file."""
_HUB_FILE = re.compile(r"hf://(?:(datasets|spaces)/)?([^/]+/[^/@]+)(?:@([^/]+))?/(.+)")
"""Kind (none for a model), repository, revision and path of a file on the hub."""

Remote = dict[str, Any]
"""A file as its server describes it: `url`, `size` (or None) and `stamp`, empty where there is none."""


class UnavailableError(Exception):
    """This URL does not give the file; `str()` says why."""

    def __init__(self, why: str, reached: bool) -> None:
        super().__init__(why)
        self.reached = reached
        """Whether there was an answer at all."""


class _IncompleteError(Exception):
    """Worth another try."""


class PartialFile:
    """A partial download, and its description: source, size and SHA-256 of what has arrived."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._description = target.with_name(target.name + ".part.json")
        self._sha = hashlib.sha256()
        self.remote: Remote = {}
        """What the bytes on disk are a part of."""

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size if self.path.exists() else 0

    def described(self) -> dict[str, Any] | None:
        """The description of a part from which a download can go on, else None."""
        try:
            fields = read_checked(self._description, ("url", "size", "stamp", "bytes", "sha256"))
        except (FileNotFoundError, DamagedError):
            return None
        resumable = fields["stamp"] and fields["size"] and fields["bytes"] <= self.size
        return fields if resumable else None

    def intact(self, url: str) -> int:
        """Bytes of `url` that are here and are those that arrived; the rest is cut off."""
        fields = self.described()
        if fields is None or fields["url"] != url or fields["bytes"] >= fields["size"]:
            return 0
        size, sha256 = fields.pop("bytes"), fields.pop("sha256")
        with self.path.open("r+b") as file:
            file.truncate(size)
            self._sha = hashlib.file_digest(file, "sha256")
        self.remote = fields
        return int(size) if self._sha.hexdigest() == sha256 else 0

    def begin(self, remote: Remote, start: int) -> None:
        """Keep the first `start` bytes, and make sure that there is room for the others."""
        needed, free = (remote["size"] or 0) - start, shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise UserError(
                f"{remote['url']} needs {needed / 1e9:.1f} GB in {self.path.parent}, which has "
                f"{free / 1e9:.1f} GB left; make room, or set ADAPTREC_CACHE to a folder on a larger disk."
            )
        if not start:
            self.path.unlink(missing_ok=True)  # a link of that name leads elsewhere
            self.path.touch()
            self._sha, self.remote = hashlib.sha256(), remote
            self._describe()

    def add(self, data: bytes, file: BinaryIO) -> None:
        """Append `data` to the part, which is open as `file`, and describe it anew."""
        file.write(data)
        file.flush()
        self._sha.update(data)
        self._describe()

    def _describe(self) -> None:
        fields = {**self.remote, "bytes": self.size, "sha256": self._sha.hexdigest()}
        write_checked(self._description, fields)

    def finish(self, target: Path) -> None:
        """Give the complete file its final name."""
        self.path.replace(target)
        self._description.unlink()

    def remove(self) -> None:
        """Delete the part and its description."""
        self.path.unlink(missing_ok=True)
        self._description.unlink(missing_ok=True)


def transfer(url: str, target: Path, sha256: str | None = None) -> None:
    """Fetch `url` into `target`, which appears when it is whole.

    `sha256` is the file's, where it is known. Raises `UnavailableError` where this URL does not give the
    file, `UserError` where the disk has no room.
    """
    part, failures, most = PartialFile(target), 0, 0
    while True:
        try:
            _try(url, part, target, sha256)
            return
        except (OSError, HTTPException, _IncompleteError) as error:
            if isinstance(error, OSError) and error.errno in REFUSED_WRITE:
                raise  # the disk here fails, and not the server
            failures = failures + 1 if part.size <= most else 1
            most = max(most, part.size)
            why, reached, temporary = _classify(error, url, begun=most > 0)
            if failures >= TRIES or not temporary:
                raise UnavailableError(why, reached) from error
            wait = WAIT_SECONDS * 2 ** (failures - 1)
            print(f"{target.name}: {why}; again in {wait:.3g} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _try(url: str, part: PartialFile, target: Path, sha256: str | None) -> None:
    """Ask once, append what arrives, and finish the part if it is the whole file."""
    have = part.intact(url)
    with _opened(url, have) as response:
        remote, start = _describe(response, url, have)
        if start and remote != part.remote:  # another version than that of the part
            part.remove()
            return _try(url, part, target, sha256)
        part.begin(remote, start)
        print(f"{target.name}: {'going on with' if start else 'fetching'} {url}", file=sys.stderr, flush=True)
        with (
            part.path.open("ab") as file,
            Progress(target.name, remote["size"], start, unit="B") as progress,
        ):
            while data := response.read(BLOCK):
                part.add(data, file)
                progress.advance(len(data))
    if remote["size"] is not None:
        whole: bool | None = part.size == remote["size"]
    elif "chunked" in response.headers.get("Transfer-Encoding", "").lower():
        whole = True  # chunks have an end mark, and `read` complains where it is missing
    else:
        whole = _is_whole(part.path, target.name, sha256)
    if whole is None:
        raise UnavailableError("the server does not state where the file ends, nor does its format", True)
    if not whole:
        raise _IncompleteError("the connection was cut")
    return part.finish(target)


def _opened(url: str, start: int) -> Any:
    """The answer of the server to a request for the bytes from `start` on."""
    address, token = _hub_address(url) if url.startswith("hf://") else (url, None)
    request = Request(address, headers={"Accept-Encoding": "identity", "User-Agent": "adaptrec"})
    if token:  # for the hub alone, not for the host that it leads to
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
    return open_request(request, SILENT_SECONDS)


def _hub_address(url: str) -> tuple[str, str | None]:
    """The address of a file on the hub, and the user's token, if there is one."""
    from huggingface_hub import constants, get_token, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise UnavailableError("no connection (HF_HUB_OFFLINE is set)", False)
    if (found := _HUB_FILE.fullmatch(url)) is None:
        raise UnavailableError("a file on the hub is hf://datasets/<owner>/<name>/<file>", False)
    kind, repository, revision, file = found.groups()
    return hf_hub_url(repository, file, repo_type=kind and kind[:-1], revision=revision), get_token()


def _describe(response: Any, url: str, have: int) -> tuple[Remote, int]:
    """The file as the server describes it, and the byte from which on it gives it: 0, or `have`."""
    headers, start, size = response.headers, 0, response.headers.get("Content-Length")
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        start, size = have, span and span[1] == str(have) and span[2]  # else it is not what was asked for
    stamp = next((f"{name} {headers[name]}" for name in _STAMPS if headers.get(name)), "")
    return {"url": url, "size": int(size) if size else None, "stamp": stamp}, start


def _is_whole(path: Path, name: str, sha256: str | None) -> bool | None:
    """Whether a file of unknown length is whole: by its digest, where that is known, or its format.

    A gzip file ends with the length and checksum of its content, a zip file with its directory.
    None for others, such as plain text.
    """
    if sha256 is not None:
        return digest_of(path) == sha256
    try:
        if name.endswith(".gz"):
            with gzip.open(path) as file:
                while file.read(BLOCK):
                    pass
            return path.stat().st_size > 0
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile):
        return False
    return None


def _classify(error: Exception, url: str, begun: bool) -> tuple[str, bool, bool]:
    """As `network.classify`."""
    if isinstance(error, _IncompleteError):
        return str(error), True, True
    return classify(error, url, begun)
