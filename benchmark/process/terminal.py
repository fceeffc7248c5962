"""Escape text for a terminal or a log: control characters are printed as Python writes them.

Names, ids and messages come from data, records and packages of other people. Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029"  # separators of lines
    "\ud800-\udfff]"  # bytes that are no text, which no encoding takes
)
_PROGRESS = re.compile(r"(\r?)(.*?)(\r?\n?)", re.DOTALL)
"""A progress bar goes back to the beginning of its line before or after it is written."""
_BARS_ABOVE = re.compile(r"(\x1b\[A)+")
"""What tqdm writes, alone, to go back to a bar above."""


def escape(text: str) -> str:
    """`text` with its control characters as Python writes them: `\\x1b`, `\\u202e`."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


class Escaped:
    """A text stream that escapes what is written to it; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; a carriage return at either end, as of a progress bar, stays."""
        parts = _PROGRESS.fullmatch(text)
        if parts and not (_BARS_ABOVE.fullmatch(text) and self._stream.isatty()):
            escaped = f"{parts[1]}{escape(parts[2])}{parts[3]}"
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


def secure() -> None:
    """Escape all further output of this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Escaped):
            setattr(sys, name, cast(TextIO, Escaped(stream)))
