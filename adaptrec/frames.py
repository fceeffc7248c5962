"""Datasets given as pandas DataFrames: they are stored as a folder of Parquet files, which is then prepared
and read as any other one."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

    Frames = Mapping[str, DataFrame]

NEEDED = {"interactions": ("user_id", "item_id", "timestamp"), "items": ("item_id",)}
"""Columns that a DataFrame must have, under these names or those that `columns` gives."""


def folder_of(frames: Frames, name: str, columns: Mapping[str, str]) -> Path:
    """A folder `name` in the cache with the content of `frames`, which has the keys of NEEDED.

    Equal content gives the same folder, so that a later call finds what was prepared from it. Raises
    `UserError` for what is no table of a dataset.
    """
    from benchmark.files import cache_folder, make_once

    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"name='{name}' must be a plain name: letters, digits, '_', '-' and '.'.")
    digest = hashlib.sha256()
    for role, frame in frames.items():
        _check(role, frame, columns)
        for part in _content(role, frame):
            digest.update(part)
    folder = cache_folder() / "frames" / digest.hexdigest()[:16] / name

    def write(new: Path) -> None:
        for role, frame in frames.items():
            frame.to_parquet(new / f"{role}.parquet", index=False)

    return make_once(folder, "the files of these DataFrames", write)


@contextmanager
def naming(folder: Path | None) -> Iterator[None]:
    """Let an error name the DataFrames, not the files in `folder` that hold them, which have no recipe."""
    try:
        yield
    except UserError as error:
        line = str(error)
        if folder is None:
            raise
        for role in NEEDED:
            line = line.replace(str(folder / f"{role}.parquet"), role)
        line = line.replace("in the recipe", "in datasets/NAME/recipe.toml and give recipe='NAME'")
        if line == str(error):
            raise
        raise UserError(line) from error


def _check(role: str, frame: DataFrame, columns: Mapping[str, str]) -> None:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"{role} must be a pandas DataFrame, got {type(frame).__name__}.")
    if frame.empty:
        raise UserError(f"{role} is empty; give a DataFrame with rows and columns.")
    names = list(frame.columns)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"{role} has the column {wrong[0]!r}; names of columns must be text.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{role} has the column '{twice[0]}' twice; rename one.")
    for needed in NEEDED[role]:
        # where only the interactions have the other name, the items may have ours, and the other way round
        allowed = {columns.get(needed, needed), *(["item_id"] if needed == "item_id" else [])}
        if allowed.isdisjoint(names):
            raise _lacks(role, columns.get(needed, needed), needed, frame)


def _lacks(role: str, column: str, needed: str, frame: DataFrame) -> UserError:
    names = list(frame.columns)
    index = [str(name) for name in frame.index.names if name is not None]
    if column in index:
        do = f"it is the index: give {role}.reset_index()"
    else:
        near = difflib.get_close_matches(column, names, n=1) or difflib.get_close_matches(needed, names, n=1)
        own = near[0] if near else "COLUMN"
        do = f"leave '{needed}' out of columns"
        if own != needed:
            do = f"name yours with columns={{'{needed}': '{own}'}}"
    return UserError(f"{role} has no column '{column}'; its columns are {', '.join(names)}; {do}.")


def _content(role: str, frame: DataFrame) -> Iterator[Any]:
    """Names, types and values as bytes of Arrow; raises `UserError` where it has no such type."""
    import pyarrow as pa

    try:
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"{role}: {_reason(error)}; store each column as one type.") from error
    yield f"{role} {table.schema}\n".encode()
    for batch in table.to_batches(max_chunksize=1 << 20):
        yield batch.serialize()


def _reason(error: Any) -> str:
    """What Arrow says, the sentence about the column first."""
    return "; ".join(str(part).rstrip(".") for part in reversed(error.args)) or type(error).__name__
