"""The frame of every command: its output is escaped, it ends with an exit status, and an error that a user
can fix is one line.

Such errors are a mistake of the user, ctrl-C, and what the operating system refuses: a full disk, a folder
that may not be written, too many open files, too little memory. Any other error is a fault of the code: it
shows a traceback and ends the process with status 1. A process that a signal ended has the negative number of
the signal as its status.

Control characters in the output are printed as Python writes them: names, ids and messages come from data,
records and packages of other people.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Any, TextIO, cast

from benchmark.escape import visible, visible_line
from benchmark.process.memory import LEAST_ADDRESS_SPACE, address_space_left, check_address_space
from methods.errors import UserError


class ExitCode(IntEnum):
    """What an exit status of `adaptrec` means, to people and to the programs that start it."""

    OK = 0
    """The command did all that it was asked for."""
    FAILED = 1
    """At least one run did not end well; its record has the reason."""
    USER_ERROR = UserError.status
    """The command cannot be executed as given; the last line on stderr has the reason."""
    BUSY = 75
    """Another process executes the same run: the same command works later (EX_TEMPFAIL)."""
    INTERRUPTED = 130
    """Ctrl-C, or the process that started this one is gone; the same command continues."""


class BusyError(UserError):
    """Another process executes the same run."""

    status = ExitCode.BUSY


class ReportedError(UserError):
    """An error whose line a child process has printed already."""


LONGEST = 3000
"""Characters of an error line."""
AGAIN = "then the same command goes on"
ELSEWHERE = "name another folder (--results, --out, --json, ADAPTREC_CACHE)"
_FULL = f"the disk of {{path}} is full; make room there, {AGAIN}."
_FORBIDDEN = f"{{path}} may not be used by this user ({{reason}}); change its permissions, or {ELSEWHERE}."
_OPEN = f"too many files are open, at {{path}}; raise the limit, as `ulimit -n 4096` does, {AGAIN}."
_MEMORY = f"there is too little memory; end other programs or choose smaller settings, {AGAIN}."
REFUSED = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: f"the quota of the disk of {{path}} is used up; make room there, {AGAIN}.",
    errno.EFBIG: f"{{path}} would be larger than a file may be here; raise the limit (`ulimit -f`), {AGAIN}.",
    errno.EROFS: f"{{path}} is on a disk that cannot be written to; {ELSEWHERE}.",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.ENOMEM: _MEMORY,
    errno.EISDIR: f"{{path}} is a folder, where a file is needed; move it away, or {ELSEWHERE}.",
    errno.ENOTDIR: f"a part of {{path}} is a file, where a folder is needed; move it away, or {ELSEWHERE}.",
    errno.EEXIST: f"{{path}} is there already and is of another kind; move it away, or {ELSEWHERE}.",
    errno.ENOENT: "{path} is missing; restore it or change the command.",
    errno.ENAMETOOLONG: "{path} is too long a name for this disk; choose a shorter one.",
    errno.ELOOP: "{path} is a link that leads back to itself; remove it.",
    errno.EAGAIN: f"the system allows no further process or thread; end some, {AGAIN}.",
    errno.EIO: "{path} cannot be read or written ({reason}); check the disk.",
}
"""Error number -> message; all other numbers are faults of the code."""
REFUSED_WRITE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM,
)  # fmt: skip
"""What a machine may refuse to any program that writes. Libraries that keep no number, such as DuckDB, have
the text of one of these in their exceptions."""
_NO_MEMORY = (
    "can't allocate memory", "could not create a primitive", "Out of Memory Error", "std::bad_alloc",
    "failed to map segment",
)  # fmt: skip
"""What torch on a CPU (twice), DuckDB, other libraries in C++, and the loader of libraries write."""


def exit_status(command: Callable[[], int], name: str = "adaptrec") -> int:
    """Call `command` and return its exit status (see `ExitCode`). An error that a user can fix is one line on
    stderr."""
    _escape_output()
    try:
        check_address_space(LEAST_ADDRESS_SPACE, "no command works with less than")
        status = command()
        sys.stdout.flush()
        return status
    except ReportedError as error:
        return error.status
    except UserError as error:
        line, status = str(error), error.status
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # `adaptrec list methods | head`
        _drop_output()
        return ExitCode.OK
    except Exception as error:
        if (refused := refusal(error)) is None:
            raise
        line, status = refused, ExitCode.USER_ERROR
        if isinstance(error, OSError) and error.filename is None:  # it may be the output itself
            _drop_output()
    print(f"{name}: error: {visible_line(_shortened(line))}", file=sys.stderr, flush=True)
    return status


def _shortened(line: str) -> str:
    """The line without the middle of what is too long to be read: it quotes a value of a user's file."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 520]} [...] {line[-500:]}"


def _drop_output() -> None:
    """Let the interpreter not try again to write what is left of the output."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refusal(error: BaseException) -> str | None:
    """What the operating system refused, where that is what `error` comes from: a line with the path and
    with what to do. None for any other error."""
    for cause in causes(error):
        if isinstance(cause, UserError):
            return None
        if (number := _number(cause)) is not None:
            return REFUSED[number].format(path=_path(cause), reason=os.strerror(number))
    # libraries turn a lack of memory into errors of every kind
    return _MEMORY if address_space_left() < LEAST_ADDRESS_SPACE else None


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and its causes, each once: an error that a handler raises again may be its own cause."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in REFUSED else None
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    text = str(error)
    if "can't start new thread" in text:
        return errno.EAGAIN
    if any(words in text for words in _NO_MEMORY):
        return errno.ENOMEM
    return next((number for number in REFUSED_WRITE if os.strerror(number) in text), None)


def _path(error: BaseException) -> str:
    """The path that `error` names, in a field or in quotes."""
    named = getattr(error, "filename", None)
    if isinstance(named, (str, bytes)):
        return os.fsdecode(named)
    quoted = re.search(r"[\"'](/[^\"']+)[\"']", str(error))
    return quoted[1] if quoted else "a file or of the output"


_PROGRESS = re.compile(r"(\r?)(.*?)(\r?\n?)", re.DOTALL)
"""A progress bar goes back to the beginning of its line before or after it is written."""
_BARS_ABOVE = re.compile(r"(\x1b\[A)+")
"""What tqdm writes, alone, to go back to a bar above."""


class Escaped:
    """A text stream that escapes what is written to it; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; a carriage return at either end, as of a progress bar, stays."""
        parts = _PROGRESS.fullmatch(text)
        if parts and not (_BARS_ABOVE.fullmatch(text) and self._stream.isatty()):
            escaped = f"{parts[1]}{visible(parts[2])}{parts[3]}"
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(escaped.encode(encoding, "backslashreplace").decode(encoding))
        else:
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _escape_output() -> None:
    """Escape all further output of this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Escaped):
            setattr(sys, name, cast(TextIO, Escaped(stream)))
