"""One file from one URL, through fsspec: `http(s)://`, `hf://` (Hugging Face hub) and `file://`.

What has arrived stays in a `.part` file, from which the next try, or the next run, goes on by a range
request, as long as size and ETag (or date) are the same; else it starts anew.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmark.files import write_json
from benchmark.llm.progress import Progress
from methods.errors import UserError

BLOCK = 8 << 20
"""Bytes of a request: what a cut connection loses at most."""
TRIES = 5
"""Failures in a row, without a byte more than before, until a mirror is given up."""
WAIT_SECONDS = 1.0
"""Before the second try; doubled with every further one."""
CONNECT_SECONDS, READ_SECONDS = 20.0, 60.0
"""Until a server that does not answer, or falls silent, counts as failed."""

_STAMPS = ("ETag", "Content-MD5", "Digest", "Last-Modified", "sha256", "blob_id", "mtime")
"""What file systems of fsspec tell of a file's version."""


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
    """By which a changed file is known; empty where the server tells nothing."""


class _Part:
    """The file that grows, and beside it what it is a part of."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._about = target.with_name(target.name + ".part.json")
        self._target = target

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, remote: _Remote) -> int:
        """Keep what belongs to `remote`, drop what does not; returns how many bytes are there."""
        have = self.size if remote.stamp and self._belongs_to(remote) else 0
        if have > (remote.size or 0):
            have = 0
        free = shutil.disk_usage(self.path.parent).free
        if remote.size is not None and remote.size - have > free:
            raise UserError(
                f"{remote.url} needs {(remote.size - have) / 1e9:.1f} GB in {self.path.parent}, which has "
                f"{free / 1e9:.1f} GB left; make room, or set ADAPTREC_CACHE to a folder on a larger disk."
            )
        if not have:
            self.path.write_bytes(b"")
            write_json(self._about, asdict(remote))
        return have

    def _belongs_to(self, remote: _Remote) -> bool:
        try:
            return bool(json.loads(self._about.read_text(encoding="utf-8")) == asdict(remote))
        except (OSError, ValueError):
            return False

    def finish(self) -> None:
        self.path.replace(self._target)
        self._about.unlink()


def transfer(url: str, target: Path) -> None:
    """Fetch `url` into `target`, which appears when it is whole.

    Raises `UnavailableError` where this URL does not give the file, `UserError` where the disk has no room.
    """
    part, failures, most, stream = _Part(target), 0, 0, False
    while True:
        try:
            _try(url, part, stream)
            return
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:  # of any of the libraries behind fsspec
            # A server may answer a range with the whole file: fsspec says so with a ValueError.
            no_ranges = isinstance(error, ValueError) and part.size > 0 and not stream
            stream = stream or no_ranges
            failures = failures + 1 if part.size <= most else 1
            most = max(most, part.size)
            if failures >= TRIES or not (no_ranges or _temporary(error, begun=most > 0)):
                raise UnavailableError(_why(error), _reached(error)) from error
            wait = WAIT_SECONDS * 2 ** (failures - 1)
            print(f"{target.name}: {_why(error)}; again in {wait:.3g} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _try(url: str, part: _Part, stream: bool) -> None:
    files, path = _file_system(url)
    remote = _describe(files, path, url)
    have = part.begin(remote)
    _copy(files, path, remote, part, have, stream)
    if remote.size is not None and part.size != remote.size:
        raise _IncompleteError(f"{part.size:,} of {remote.size:,} bytes arrived")
    if _describe(files, path, url) != remote:
        raise _IncompleteError("the file has changed on the server meanwhile")
    part.finish()


def _copy(files: Any, path: str, remote: _Remote, part: _Part, have: int, stream: bool) -> None:
    title = path.rpartition("/")[2]
    print(f"{title}: {'going on with' if have else 'fetching'} {remote.url}", file=sys.stderr, flush=True)
    # Without a size there is nothing to ask ranges of.
    block = 0 if stream or remote.size is None else BLOCK
    if stream or remote.size is None:
        part.path.write_bytes(b"")
        have = 0
    with (
        files.open(path, "rb", block_size=block, cache_type="none") as source,
        part.path.open("ab") as target,
        Progress(title, remote.size, have, unit="B") as progress,
    ):
        if have:
            source.seek(have)
        while data := source.read(BLOCK):
            target.write(data)
            target.flush()
            progress.advance(len(data))


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; a new one each time, as they remember what they saw."""
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
    found = [error]
    while (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp or of the hub's library stands for."""
    for one in _chain(error):
        status = getattr(one, "status", None) or getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


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
    return any(isinstance(one, (*passing, aiohttp.ServerDisconnectedError)) for one in chain)


def _reached(error: BaseException) -> bool:
    """Whether there is a network, and a host that answers."""
    import aiohttp
    from huggingface_hub.errors import OfflineModeIsEnabled

    absent = (aiohttp.ClientConnectorError, OfflineModeIsEnabled, socket.gaierror, ConnectionRefusedError)
    return not any(isinstance(one, absent) for one in _chain(error))


def _absence(error: BaseException) -> str:
    """Why nothing answered, as the system says it, which names no host."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    chain = _chain(error)
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE is set"
    said = (one.strerror for one in reversed(chain) if isinstance(one, OSError) and one.strerror)
    return next(said, str(chain[-1]))


def _why(error: BaseException) -> str:
    """What went wrong, in a line."""
    import aiohttp

    status = _status(error)
    if status is not None:
        return f"HTTP {status}"
    if not _reached(error):
        return f"no connection ({_absence(error)})"
    if any(isinstance(one, aiohttp.ClientPayloadError) for one in _chain(error)):
        return "the connection was cut"
    # fsspec says "no such file" of whatever went wrong when it asked for a file's size
    real = next((one for one in _chain(error) if not isinstance(one, FileNotFoundError)), error)
    line = " ".join(str(real).split())[:200]
    return line if isinstance(real, _IncompleteError) else f"{type(real).__name__}: {line}".removesuffix(": ")
