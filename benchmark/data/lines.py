"""Lines of a text file, compressed or not, with their numbers."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.data.recipe import Recipe
from methods.errors import UserError

BLOCK = 8 << 20
_LONGEST = 64 << 20
_GZIP = b"\x1f\x8b"


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number of its first line, from 1; whole lines), some megabytes at a time, a byte order mark dropped.

    Raises `UserError` for a file that is cut short or cannot be read.
    """
    number, rest = 1, b""
    try:
        with path.open("rb") as plain:
            packed = plain.peek(2)[:2] == _GZIP
            file: Any = gzip.GzipFile(fileobj=plain) if packed else plain
            while data := file.read(BLOCK):
                rest += data
                end = rest.rfind(b"\n") + 1
                if end:
                    yield number, rest[:end].removeprefix(codecs.BOM_UTF8) if number == 1 else rest[:end]
                    number, rest = number + rest.count(b"\n", 0, end), rest[end:]
                elif len(rest) > _LONGEST:
                    raise UserError(
                        f"{path}, line {number}: no line end within {_LONGEST >> 20} MiB; is it a text file?"
                    )
        if rest:
            yield number, rest
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path} is damaged or cut short after line {number - 1:,} ({error}); delete it and get it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; check it.") from error


def numbered_lines(
    block: bytes, first: int, path: Path, recipe: Recipe, repairs: Counter[str]
) -> Iterator[tuple[int, str]]:
    """(number, text) of every line of a block that is not blank; `first` is the number of the first.

    Raises `UserError` for bytes that are not UTF-8 unless the recipe replaces them.
    """
    for number, line in enumerate(block.split(b"\n"), start=first):
        if content := line.strip():
            yield number, decoded(content, path, f"line {number}", recipe, repairs)


def decoded(data: bytes, path: Path, what: str, recipe: Recipe, repairs: Counter[str]) -> str:
    """`data` as UTF-8; bytes that are not are refused, or replaced and counted. `what`: where it stands."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if recipe.bad_bytes == "error":
            raise UserError(
                f"{path}, {what}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8, or "
                'set bad_bytes = "replace" in the recipe.'
            ) from error
    text = data.decode(errors="replace")
    repairs["undecodable bytes replaced"] += text.count("\ufffd") - data.count("\ufffd".encode())
    return text
