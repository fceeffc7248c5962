"""Write files so that a reader sees the old file, the new one, or none, and check them by their digests.

A file that is read again carries a checksum: a JSON object in the field `checksum` (`write_checked`), another
file in its last line (`replacing_checked`), or its SHA-256 stands in such a file. All of them are listed in
`tests/stored_kinds.py`. Content that does not match raises `DamagedError`, and whoever reads builds the file
again. A file that cannot be read because of permissions or the disk raises `OSError`: it may be intact, and
must not be replaced.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from benchmark.process.exit_status import causes
from benchmark.process.locks import held, locked
from methods.errors import UserError

CHECKSUM = "checksum"
"""Field of a JSON object: SHA-256 of its other fields."""
_TRAILER = re.compile(rb"\nsha256 ([0-9a-f]{64})\n")
_TRAILER_BYTES = 73
_BLOCK = 1 << 20
_TEMPORARY = re.compile(r".+\.[a-z0-9_]{8}\.tmp")


class DamagedError(Exception):
    """A file is not what was written; `str()` is the reason, without the name of the file."""


def cache_folder() -> Path:
    """Where downloads, prepared data and hidden states are kept: $ADAPTREC_CACHE, else ~/.cache/adaptrec."""
    return Path(os.environ.get("ADAPTREC_CACHE") or Path.home() / ".cache" / "adaptrec")


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that becomes `path` when the block ends well, and is gone when it does not.

    It is a neighbour of `path` named `<name>.<8 characters>.tmp`, under a lock that the system frees with the
    process. What a killed process has left of an earlier try is removed. `durable` waits until the disk has
    the file, which a loss of power needs and a kill does not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent, path.name)
    handle, temporary = _temporary(path)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)  # under the lock: nobody can take it for abandoned
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name(error, path, temporary)
        raise


def _name(error: BaseException, path: Path, temporary: Path | None = None) -> None:
    """Let `error` name `path` where it comes from writing, which the system reports without a path or with
    that of the temporary file."""
    for cause in causes(error):
        if (
            isinstance(cause, OSError)
            and cause.errno is not None
            and cause.filename in (None, str(temporary))
        ):
            cause.filename = str(path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to a temporary neighbour and rename it onto `path`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder that becomes `folder` when the block ends well, and is gone when it does not.

    As `replacing`. The caller holds a lock on `folder`, so that an earlier try for it is abandoned, also on
    a file system that cannot lock a folder; everything in the parent folder is the harness's own.
    """
    for left in _leftovers(folder.parent, folder.name):
        with suppress(OSError):
            remove_folder(left)
    remove_abandoned(folder.parent)
    try:
        with temporary_folder(folder.parent, folder.name) as part:
            yield part
            part.chmod(0o755)
            part.rename(folder)
    except Exception as error:
        _name(error, folder)
        raise


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder `<name>.<8 characters>.tmp` below `parent`, under a lock, that is gone afterwards; with it go
    those that killed processes have left."""
    remove_abandoned(parent, name)
    part = Path(tempfile.mkdtemp(dir=parent, prefix=f"{name}.", suffix=".tmp"))
    handle = os.open(part, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        part.mkdir(exist_ok=True)  # another process may have taken it for abandoned before it was locked
        yield part
    finally:
        with suppress(OSError):
            remove_folder(part)
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that it holds. Unlike `shutil.rmtree` it opens one folder at a time, and works
    where hardly any descriptor is left."""
    for place, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(place, name).unlink()
        for name in folders:
            below = Path(place, name)
            below.unlink() if below.is_symlink() else below.rmdir()
    folder.rmdir()


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove temporary files and folders in `folder`, those for `name` or all, that no living process writes.

    A living process holds a lock on its own, also as seen from another machine or container.
    """
    for left in _leftovers(folder, name):
        with suppress(OSError, UserError):  # it is gone, is not ours to remove, or cannot be locked
            real = left.is_dir() and not left.is_symlink()
            handle = os.open(left, (os.O_RDONLY if real else os.O_RDWR) | os.O_NOFOLLOW)
            try:
                if locked(handle, left):
                    remove_folder(left) if real else left.unlink()
            finally:
                os.close(handle)


def _leftovers(folder: Path, name: str | None) -> list[Path]:
    """Paths in `folder` that are spelt as temporary ones, those for `name` or all."""
    ours = _TEMPORARY if name is None else re.compile(re.escape(name) + r"\.[a-z0-9_]{8}\.tmp")
    with suppress(OSError):
        return [left for left in folder.iterdir() if ours.fullmatch(left.name)]
    return []


def _temporary(path: Path) -> tuple[int, Path]:
    """A new neighbour of `path`, locked: its descriptor and its place."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
        with suppress(OSError):  # a file system without locks: then nothing is ever taken for abandoned
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another writer removed it before it was locked


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_checked(path: Path, fields: dict[str, Any]) -> None:
    """Write a JSON object atomically, with its checksum."""
    fields = json.loads(json.dumps(fields))  # as it will be read: numbers as keys become strings
    write_json(path, {**fields, CHECKSUM: checksum_of(fields)})


def read_checked(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The fields of a JSON object that `write_checked` wrote.

    Raises `DamagedError` where they are not those of `names`, or do not match their checksum. A file of an
    earlier version, which has the names and no checksum, is taken. Raises `OSError` where it is missing or
    cannot be read.
    """
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError("it is not JSON") from error
    if not isinstance(fields, dict) or set(fields) - {CHECKSUM} != set(names):
        raise DamagedError(f"it does not hold {', '.join(sorted(names))}")
    stated = fields.pop(CHECKSUM, None)
    if stated is not None and stated != checksum_of(fields):
        raise DamagedError("it does not match its checksum")
    return fields


def checksum_of(fields: dict[str, Any]) -> str:
    """SHA-256 of a JSON object as it is read: a text with sorted keys and Python's separators."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@contextmanager
def replacing_checked(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """As `replacing`, for a file of any format; its SHA-256 is added as a last line."""
    with replacing(path, durable) as file:
        yield file
        size = file.tell()
        file.seek(0)
        trailer = f"\nsha256 {_digest_of_next(size, file)}\n".encode()
        file.seek(size)
        file.write(trailer)


@contextmanager
def opening_checked(path: Path) -> Iterator[BinaryIO]:
    """A file that `replacing_checked` wrote, at its first byte. Raises `DamagedError` where its content does
    not match its last line, `OSError` where it is missing or cannot be read."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size - _TRAILER_BYTES
        actual = _digest_of_next(size, file)
        stated = _TRAILER.fullmatch(file.read())
        if stated is None:
            raise DamagedError("it does not end with a checksum")
        if stated[1].decode() != actual:
            raise DamagedError("it does not match its checksum")
        file.seek(0)
        yield file


def _digest_of_next(size: int, file: BinaryIO) -> str:
    """SHA-256 of the next `size` bytes of an open file."""
    digest = hashlib.sha256()
    for start in range(0, size, _BLOCK):
        digest.update(file.read(min(_BLOCK, size - start)))
    return digest.hexdigest()


def lacks(folder: Path, what: str) -> UserError:
    """The error for a read-only cache that lacks something."""
    return UserError(
        f"the cache {folder} cannot be written, and it lacks {what}; make it writable, or set "
        "ADAPTREC_CACHE to another folder."
    )


def make_once(folder: Path, what: str, write: Callable[[Path], None]) -> Path:
    """A folder of the cache whose content never changes; `write` fills it unless it is there: -> `folder`.

    Of several processes one writes, and the others wait. Raises `UserError` where a read-only cache lacks it;
    `what` says what is then missing.
    """
    with held(folder.with_name(f"{folder.name}.lock")) as writable:
        if folder.exists():
            return folder
        if not writable:
            raise lacks(folder.parent, what)
        with replacing_folder(folder) as part:
            write(part)
    return folder


def nearest(folder: Path) -> Path:
    """`folder`, or the first existing folder above it."""
    paths = (folder.absolute(), *folder.absolute().parents)
    return next(path for path in paths if path.exists())


def writable(folder: Path) -> bool:
    """Whether files can be written into `folder`, which need not exist yet."""
    return os.access(nearest(folder), os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def path_component(name: str) -> str:
    """`name`, such as a hub id, as one component of a path."""
    return re.sub(r"[^\w.-]+", "--", name).strip("-")
