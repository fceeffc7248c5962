"""Strings that stay in Arrow's memory, or in a mapped file, until they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload


class Strings(Sequence[str]):
    """A sequence over an Arrow column of strings: an item becomes a Python string when it is read."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            found: list[str] = self._column[index].to_pylist()
            return found
        one: str = self._column[int(index)].as_py()
        return one

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            for start in range(0, len(chunk), 1 << 16):
                yield from chunk.slice(start, 1 << 16).to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Strings({self[:3]}{'...' if len(self) > 3 else ''}, {len(self):,} in all)"
