"""One file from one URL, through fsspec: `http(s)://`, `hf://` (Hugging Face hub) and `file://`.

What has arrived stays in a `.part` file, from which the next try, or the next run, goes on by a range
request, as long as size and ETag (or date) are the same, and its bytes are those that arrived; else it starts
anew. A file of unknown length is whole only if its digest or format proves it: see `_is_whole`.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import socket
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import aiohttp
import fsspec
from huggingface_hub.errors import OfflineModeIsEnabled

from benchmark.files import DamagedError, digest_of, read_checked, write_checked
from benchmark.process.exit_status import REFUSED_WRITE
from benchmark.progress import Progress
from methods.errors import UserError

BLOCK = 8 << 20
"""Bytes of a request: what a cut connection or a kill loses at most."""
TRIES = 5
"""Failures in a row, without a byte more than before, until a mirror is given up."""
WAIT_SECONDS = 1.0
"""Before the second try; doubled with every further one."""
CONNECT_SECONDS, READ_SECONDS = 20.0, 60.0
"""Until a server that does not answer, or falls silent, counts as failed."""

_STAMPS = ("ETag", "Content-MD5", "Digest", "Last-Modified", "sha256", "blob_id", "mtime")
"""Fields by which file systems of fsspec identify a version."""

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


_ABSENT = (aiohttp.ClientConnectorError, OfflineModeIsEnabled, socket.gaierror, ConnectionRefusedError)
"""There is no network, or no host that answers."""
_PASSING = (
    _IncompleteError, TimeoutError, ConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientOSError,
    aiohttp.ServerDisconnectedError,
)  # fmt: skip
"""The same request may succeed later."""


class _PartialFile:
    """A partial download, and its description: source, size and SHA-256 of what has arrived."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._description = target.with_name(target.name + ".part.json")
        self._sha, self._remote = hashlib.sha256(), Remote()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, remote: Remote, anew: bool) -> int:
        """Keep the bytes that belong to `remote`, none if `anew`; returns how many there are."""
        have = 0 if anew or not remote["stamp"] or remote["size"] is None else self._intact(remote)
        needed, free = (remote["size"] or 0) - have, shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise UserError(
                f"{remote['url']} needs {needed / 1e9:.1f} GB in {self.path.parent}, which has "
                f"{free / 1e9:.1f} GB left; make room, or set ADAPTREC_CACHE to a folder on a larger disk."
            )
        self._remote = remote
        if not have:
            self.path.unlink(missing_ok=True)  # a link of that name leads elsewhere
            self.path.touch()
            self._sha = hashlib.sha256()
            self.describe()
        return have

    def add(self, data: bytes, file: BinaryIO) -> None:
        """Append `data` to the part, which is open as `file`."""
        file.write(data)
        file.flush()
        self._sha.update(data)

    def describe(self) -> None:
        """Note the bytes on disk, so that a later run can continue from them."""
        write_checked(
            self._description, {**self._remote, "bytes": self.size, "sha256": self._sha.hexdigest()}
        )

    def _intact(self, remote: Remote) -> int:
        """Bytes that are there, are a part of `remote`, and are those that arrived; the rest is cut off."""
        try:
            described = read_checked(self._description, (*remote, "bytes", "sha256"))
        except (FileNotFoundError, DamagedError):
            return 0
        size, sha256 = described.pop("bytes"), described.pop("sha256")
        if described != remote or size > min(self.size, remote["size"]):
            return 0
        with self.path.open("r+b") as file:
            file.truncate(size)
            self._sha = hashlib.file_digest(file, "sha256")
        return int(size) if self._sha.hexdigest() == sha256 else 0

    def finish(self, target: Path) -> None:
        """Give the complete file its final name."""
        self.path.replace(target)
        self._description.unlink()


def transfer(url: str, target: Path, sha256: str | None = None) -> None:
    """Fetch `url` into `target`, which appears when it is whole.

    `sha256` is the file's, where it is known. Raises `UnavailableError` where this URL does not give the
    file, `UserError` where the disk has no room.
    """
    part, failures, most, stream = _PartialFile(target), 0, 0, False
    while True:
        try:
            _try(url, part, target, stream, sha256)
            return
        except (UserError, UnavailableError):
            raise
        except Exception as error:  # of any of the libraries behind fsspec
            network = isinstance(error, aiohttp.ClientError)
            if isinstance(error, OSError) and not network and error.errno in REFUSED_WRITE:
                raise  # the disk here fails, and not the server
            # A server may answer a range with the whole file: fsspec then raises ValueError.
            no_ranges = isinstance(error, ValueError) and part.size > 0 and not stream
            stream = stream or no_ranges
            failures = failures + 1 if part.size <= most else 1
            most = max(most, part.size)
            why, reached, temporary = _classify(error, begun=most > 0)
            if failures >= TRIES or not (no_ranges or temporary):
                raise UnavailableError(why, reached) from error
            wait = WAIT_SECONDS * 2 ** (failures - 1)
            print(f"{target.name}: {why}; again in {wait:.3g} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _try(url: str, part: _PartialFile, target: Path, stream: bool, sha256: str | None) -> None:
    files, path = _file_system(url)
    remote = _describe(files, path, url)
    size = remote["size"]
    stated = _copy(files, path, remote, part, stream)
    if size is not None and part.size != size:
        raise _IncompleteError(f"{part.size:,} of {size:,} bytes arrived")
    if not stated and not (whole := _is_whole(part.path, target.name, sha256)):
        if whole is None:
            raise UnavailableError("the server does not state where the file ends, nor does its format", True)
        raise _IncompleteError("the connection was cut")
    if _describe(files, path, url) != remote:
        raise _IncompleteError("the file has changed on the server meanwhile")
    part.finish(target)


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


def _copy(files: Any, path: str, remote: Remote, part: _PartialFile, stream: bool) -> bool:
    """Append what is missing; returns whether the server stated where the file ends."""
    title, url, size = path.rpartition("/")[2], remote["url"], remote["size"]
    have = part.begin(remote, anew=stream)
    print(f"{title}: {'going on with' if have else 'fetching'} {url}", file=sys.stderr, flush=True)
    block = 0 if stream or size is None else BLOCK  # ranges need a size
    with (
        files.open(path, "rb", block_size=block, cache_type="none") as source,
        part.path.open("ab") as target,
        Progress(title, size, have, unit="B") as progress,
    ):
        if have:
            source.seek(have)
        while data := source.read(BLOCK):
            part.add(data, target)
            if block:  # a stream arrives in small pieces, and nothing goes on from them
                part.describe()
            progress.advance(len(data))
        # chunks of HTTP have an end mark, and its library complains where that, or a stated length, is missed
        headers = getattr(getattr(source, "r", None), "headers", {})
        framed = "chunked" in headers.get("Transfer-Encoding", "").lower() or "Content-Length" in headers
        return size is not None or framed or not url.startswith("http")


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; a new one each time, as they cache what they saw."""
    if not url.startswith("http"):
        return fsspec.url_to_fs(url, skip_instance_cache=True)  # type: ignore[no-any-return]
    client = {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
        "auto_decompress": False,  # a .gz is a .gz, whatever the server calls it
        "trust_env": urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"),  # proxies
    }
    headers = {"Accept-Encoding": "identity"}
    return fsspec.url_to_fs(url, skip_instance_cache=True, client_kwargs=client, headers=headers)  # type: ignore[no-any-return]


def _describe(files: Any, path: str, url: str) -> Remote:
    info = files.info(path)
    stamp = next((f"{key} {info[key]}" for key in _STAMPS if info.get(key)), "")
    return {"url": url, "size": info.get("size"), "stamp": stamp}


def _classify(error: BaseException, begun: bool) -> tuple[str, bool, bool]:
    """What went wrong in a line, whether a server answered, and whether the same request may succeed later.

    `begun`: this server has answered before.
    """
    chain = [error]  # the error and what it was raised from, the root last
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for cause in chain:
        response = getattr(cause, "response", None)  # of the hub's library
        status = getattr(cause, "status", None) or getattr(response, "status_code", None)
        if isinstance(status, int):
            return f"HTTP {status}", True, status >= 500 or status in (408, 429)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return "no connection (HF_HUB_OFFLINE is set)", False, begun
    if any(isinstance(cause, _ABSENT) for cause in chain):
        # as the system reports it, without a host name
        failures = [cause for cause in reversed(chain) if isinstance(cause, OSError)]
        reasons = (failure.strerror for failure in failures if failure.strerror)
        return f"no connection ({next(reasons, str(chain[-1]))})", False, begun
    temporary = any(isinstance(cause, _PASSING) for cause in chain)
    if any(isinstance(cause, aiohttp.ClientPayloadError) for cause in chain):
        return "the connection was cut", True, temporary
    # fsspec raises FileNotFoundError for any failure to get the size
    real = next((cause for cause in chain if not isinstance(cause, FileNotFoundError)), error)
    line = " ".join(str(real).split())[:200]
    kind = "" if isinstance(real, _IncompleteError) else f"{type(real).__name__}: "
    return f"{kind}{line}".removesuffix(": "), True, temporary
