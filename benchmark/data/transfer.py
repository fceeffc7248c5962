"""One file from one URL, through fsspec: `http(s)://`, `hf://` (Hugging Face hub) and `file://`.

What has arrived stays in a `.part` file, from which the next try, or the next run, goes on by a range
request, as long as size and ETag (or date) are the same, and its bytes are those that arrived; else it starts
anew. A file of unknown length is whole only if its digest or format proves it: see `_ends`.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from benchmark.files import DamagedError, digest_of, read_checked, write_checked
from benchmark.process.exit_status import REFUSED_WRITE
from benchmark.progress import Progress
from methods.errors import UserError

BLOCK = 8 << 20
"""Bytes of a request: what a cut connection loses at most."""
TRIES = 5
"""Failures in a row, without a byte more than before, until a mirror is given up."""
WAIT_SECONDS = 1.0
"""Before the second try; doubled with every further one."""
CONNECT_SECONDS, READ_SECONDS = 20.0, 60.0
"""Until a server that does not answer, or falls silent, counts as failed."""

NOTED = 64 << 20
"""Bytes that arrive between two notes of what the part is: what a kill loses at most."""

_STAMPS = ("ETag", "Content-MD5", "Digest", "Last-Modified", "sha256", "blob_id", "mtime")
"""Fields by which file systems of fsspec identify a version."""


class UnavailableError(Exception):
    """This URL does not give the file; `str()` says why."""

    def __init__(self, why: str, reached: bool) -> None:
        super().__init__(why)
        self.reached = reached
        """Whether there was an answer at all."""


class _IncompleteError(Exception):
    """Worth another try."""


@dataclass(frozen=True)
class _Remote:
    """A file as its server describes it."""

    url: str
    size: int | None
    stamp: str
    """Identifies the version of the file; empty where the server gives none."""


class PartialFile:
    """A partial download, and its description: source, size and SHA-256 of what has arrived."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._about = target.with_name(target.name + ".part.json")
        self._target = target
        self._sha, self._noted = hashlib.sha256(), 0
        self._remote: _Remote | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, remote: _Remote) -> int:
        """Keep what belongs to `remote`, drop what does not; returns how many bytes are there."""
        have = self._intact(remote) if remote.stamp and remote.size is not None else 0
        free = shutil.disk_usage(self.path.parent).free
        if remote.size is not None and remote.size - have > free:
            raise UserError(
                f"{remote.url} needs {(remote.size - have) / 1e9:.1f} GB in {self.path.parent}, which has "
                f"{free / 1e9:.1f} GB left; make room, or set ADAPTREC_CACHE to a folder on a larger disk."
            )
        self._remote = remote
        if not have:
            self.restart()
        return have

    def restart(self) -> None:
        """Drop what is there."""
        self.path.unlink(missing_ok=True)  # a link of that name leads elsewhere
        self.path.touch()
        self._sha = hashlib.sha256()
        self.note()

    def add(self, data: bytes, file: BinaryIO) -> None:
        """Append `data` to the part, which is open as `file`."""
        file.write(data)
        file.flush()
        self._sha.update(data)
        if self.size - self._noted >= NOTED:
            self.note()

    def note(self) -> None:
        """Write down what is there."""
        assert self._remote is not None
        self._noted = self.size
        about = {**asdict(self._remote), "bytes": self._noted, "sha256": self._sha.hexdigest()}
        write_checked(self._about, about)

    def _intact(self, remote: _Remote) -> int:
        """Bytes that are there, are a part of `remote`, and are those that arrived; the rest is cut off."""
        try:
            noted = read_checked(self._about, (*asdict(remote), "bytes", "sha256"))
        except (FileNotFoundError, DamagedError):
            return 0
        size = noted.pop("bytes")
        if {**asdict(remote), "sha256": noted["sha256"]} != noted or size > min(self.size, remote.size or 0):
            return 0
        with self.path.open("r+b") as file:
            file.truncate(size)
            self._sha = hashlib.file_digest(file, "sha256")
        self._noted = size
        return size if self._sha.hexdigest() == noted["sha256"] else 0

    def finish(self) -> None:
        """Give the complete file its final name."""
        self.path.replace(self._target)
        self._about.unlink()


def remove_useless_parts(folder: Path) -> None:
    """Remove parts from which no download can go on, as killed ones leave them. The caller holds a lock."""
    for about in folder.glob("*.part.json"):
        part, target = about.with_suffix(""), about.with_suffix("").with_suffix("")
        try:
            fields = read_checked(about, ("url", "size", "stamp", "bytes", "sha256"))
            useful = part.exists() and fields["stamp"] and fields["size"] and not target.exists()
        except DamagedError:
            useful = False
        if not useful:
            part.unlink(missing_ok=True)
            about.unlink()
    for part in folder.glob("*.part"):
        if not part.with_name(part.name + ".json").exists():
            part.unlink()


def transfer(url: str, target: Path, sha256: str | None = None) -> None:
    """Fetch `url` into `target`, which appears when it is whole.

    `sha256` is the file's, where it is known. Raises `UnavailableError` where this URL does not give the
    file, `UserError` where the disk has no room.
    """
    part, failures, most, stream = PartialFile(target), 0, 0, False
    while True:
        try:
            _try(url, part, stream, lambda path: _ends(path, target.name, sha256))
            return
        except (UserError, UnavailableError, KeyboardInterrupt):
            raise
        except Exception as error:  # of any of the libraries behind fsspec
            if _of_this_machine(error):
                raise
            # A server may answer a range with the whole file: fsspec then raises ValueError.
            no_ranges = isinstance(error, ValueError) and part.size > 0 and not stream
            stream = stream or no_ranges
            failures = failures + 1 if part.size <= most else 1
            most = max(most, part.size)
            if failures >= TRIES or not (no_ranges or _temporary(error, begun=most > 0)):
                raise UnavailableError(_why(error), _reached(error)) from error
            wait = WAIT_SECONDS * 2 ** (failures - 1)
            print(f"{target.name}: {_why(error)}; again in {wait:.3g} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _try(url: str, part: PartialFile, stream: bool, ends: Callable[[Path], bool | None]) -> None:
    files, path = _file_system(url)
    remote = _describe(files, path, url)
    have = part.begin(remote)
    stated = _copy(files, path, remote, part, have, stream)
    if remote.size is not None and part.size != remote.size:
        raise _IncompleteError(f"{part.size:,} of {remote.size:,} bytes arrived")
    if not stated and not (whole := ends(part.path)):
        if whole is None:
            raise UnavailableError("the server does not state where the file ends, nor does its format", True)
        raise _IncompleteError("the connection was cut")
    if _describe(files, path, url) != remote:
        raise _IncompleteError("the file has changed on the server meanwhile")
    part.finish()


def _ends(path: Path, name: str, sha256: str | None) -> bool | None:
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


def _copy(files: Any, path: str, remote: _Remote, part: PartialFile, have: int, stream: bool) -> bool:
    """Append what is missing: -> whether the server stated where the file ends."""
    title = path.rpartition("/")[2]
    print(f"{title}: {'going on with' if have else 'fetching'} {remote.url}", file=sys.stderr, flush=True)
    # Without a size there is nothing to ask ranges of.
    block = 0 if stream or remote.size is None else BLOCK
    if stream and have:
        part.restart()
        have = 0
    with (
        files.open(path, "rb", block_size=block, cache_type="none") as source,
        part.path.open("ab") as target,
        Progress(title, remote.size, have, unit="B") as progress,
    ):
        if have:
            source.seek(have)
        try:
            while data := source.read(BLOCK):
                part.add(data, target)
                progress.advance(len(data))
        finally:
            part.note()
        # chunks of HTTP have an end mark, and its library complains where that, or a stated length, is missed
        headers = getattr(getattr(source, "r", None), "headers", {})
        framed = "chunked" in headers.get("Transfer-Encoding", "").lower() or "Content-Length" in headers
        return remote.size is not None or framed or not remote.url.startswith("http")


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; a new one each time, as they cache what they saw."""
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True}
    if url.startswith("http"):
        import aiohttp

        options["client_kwargs"] = {
            "timeout": aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
            ),
            "auto_decompress": False,  # a .gz is a .gz, whatever the server calls it
            "trust_env": urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"),  # proxies
        }
        options["headers"] = {"Accept-Encoding": "identity"}
    files, path = fsspec.url_to_fs(url, **options)
    return files, path


def _describe(files: Any, path: str, url: str) -> _Remote:
    info = files.info(path)
    stamp = next((f"{key} {info[key]}" for key in _STAMPS if info.get(key)), "")
    return _Remote(url, info.get("size"), stamp)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it was raised from, the root last."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp or of the hub's library stands for."""
    for cause in _chain(error):
        status = getattr(cause, "status", None) or getattr(
            getattr(cause, "response", None), "status_code", None
        )
        if isinstance(status, int):
            return status
    return None


def _of_this_machine(error: BaseException) -> bool:
    """Whether the disk here fails, and not the server: another try or another mirror would not help."""
    import aiohttp

    remote = isinstance(error, aiohttp.ClientError)
    return isinstance(error, OSError) and not remote and error.errno in REFUSED_WRITE


def _temporary(error: BaseException, begun: bool) -> bool:
    """Whether the same request may do better in a while; `begun`: the server has answered before."""
    import aiohttp

    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    chain = _chain(error)
    if not _reached(error):
        return begun
    passing = (
        _IncompleteError,
        TimeoutError,
        ConnectionError,
        aiohttp.ClientPayloadError,
        aiohttp.ClientOSError,
    )
    return any(isinstance(cause, (*passing, aiohttp.ServerDisconnectedError)) for cause in chain)


def _reached(error: BaseException) -> bool:
    """Whether there is a network, and a host that answers."""
    import aiohttp
    from huggingface_hub.errors import OfflineModeIsEnabled

    absent = (aiohttp.ClientConnectorError, OfflineModeIsEnabled, socket.gaierror, ConnectionRefusedError)
    return not any(isinstance(cause, absent) for cause in _chain(error))


def _absence(error: BaseException) -> str:
    """Why no server answered, as the system reports it, without a host name."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    chain = _chain(error)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return "HF_HUB_OFFLINE is set"
    reasons = (cause.strerror for cause in reversed(chain) if isinstance(cause, OSError) and cause.strerror)
    return next(reasons, str(chain[-1]))


def _why(error: BaseException) -> str:
    """What went wrong, in a line."""
    import aiohttp

    status = _status(error)
    if status is not None:
        return f"HTTP {status}"
    if not _reached(error):
        return f"no connection ({_absence(error)})"
    if any(isinstance(cause, aiohttp.ClientPayloadError) for cause in _chain(error)):
        return "the connection was cut"
    # fsspec raises FileNotFoundError for any failure to get the size
    real = next((cause for cause in _chain(error) if not isinstance(cause, FileNotFoundError)), error)
    line = " ".join(str(real).split())[:200]
    return line if isinstance(real, _IncompleteError) else f"{type(real).__name__}: {line}".removesuffix(": ")
