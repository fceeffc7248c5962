"""Reader of UniSRec's form of the RecBole atomic files: sequences are rebuilt from prefixes and targets.

`X.train.inter`, `X.valid.inter` and `X.test.inter` have the header `user_id:token  item_id_list:token_seq
item_id:token`, the history cut to its most recent items (50 in UniSRec's own files); `X.text` gives
`item_id:token  text:token_seq`, one line an item; `X.item2index` and `X.user2index` map original ids to the
indices of the others, two columns without a header. Format as UniSRec's `process_amazon.py` writes it
(github.com/RUCAIBox/UniSRec).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmark.data.raw import BATCH_ROWS, ITEMS, Location, RawData, interactions_batch, locator
from benchmark.data.recipe import Recipe
from benchmark.data.tables import item_batches, open_table, require_columns
from benchmark.data.text_files import blocks, numbered_lines
from methods.errors import UserError

Ints = npt.NDArray[np.int64]
_COLUMNS = ("user_id", "item_id_list", "item_id")


@dataclass(frozen=True)
class _SplitFile:
    """The columns of one file, in memory: sequences are put together from three files at once."""

    path: Path
    columns: dict[str, list[str]]
    rows: npt.NDArray[np.int64]

    def at(self, index: int) -> str:
        return f"{self.path}, line {self.rows[index]}"


Steps = list[tuple[_SplitFile, int]]
"""The rows (table, row) of one user, in time order."""


def read_unisrec(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> RawData:
    """Rebuild every user's sequence; raises `UserError` where a history contradicts the targets before it."""
    recipe = replace(recipe, quotes="none")  # the format has no quoting
    line_numbers: list[Ints] = []
    return RawData(
        interactions=_interactions(files, recipe, repairs, line_numbers),
        items=_items(files, recipe, repairs),
        # A rebuilt interaction has no line of its own: report the user's line of the test file.
        place=lambda row: Location(files["test"], f"line {np.concatenate(line_numbers)[row]}"),
        item_place=locator(files["text"], "line"),
        repairs=repairs,
    )


def _interactions(
    files: Mapping[str, Path],
    recipe: Recipe,
    repairs: Counter[str],
    line_numbers: list[npt.NDArray[np.int64]],
) -> Iterator[Any]:
    """Batches of interactions numbered from 0; `line_numbers` gets the line of each."""
    parts = [_read(files[name], recipe, repairs) for name in ("train", "valid", "test")]
    user_names, item_names = (_names(files[role], recipe, repairs) for role in ("user2index", "item2index"))
    done = 0
    pairs = iter(_steps(parts).items())
    while block := list(islice(pairs, BATCH_ROWS // 16)):
        users: list[str] = []
        items: list[str] = []
        times: list[int] = []
        lines: list[int] = []
        for user, steps in block:
            sequence, (test, row) = _sequence(steps), steps[-1]
            where = test.at(row)
            users += [_look_up(user, user_names, "user", where, files["user2index"])] * len(sequence)
            items += [_look_up(item, item_names, "item", where, files["item2index"]) for item in sequence]
            times += range(len(sequence))
            lines += [int(test.rows[row])] * len(sequence)
        line_numbers.append(np.asarray(lines, dtype=np.int64))
        yield interactions_batch(users, items, times, np.arange(done, done + len(users)))
        done += len(users)


def _items(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> Iterator[Any]:
    """The items in the order of their indices, those without one at the end."""
    table = pa.Table.from_batches(item_batches(files["text"], recipe, repairs), ITEMS)
    names = _names(files["item2index"], recipe, Counter()).values()
    order = {name: rank for rank, name in enumerate(names)}
    ranks = [order.get(name, len(order)) for name in table.column("item_id").to_pylist()]
    yield from table.take(np.argsort(ranks, kind="stable")).to_batches(BATCH_ROWS)


def _read(path: Path, recipe: Recipe, repairs: Counter[str]) -> _SplitFile:
    table = open_table(path, recipe, repairs)
    require_columns(table, recipe, *_COLUMNS)
    parts = list(table.parts(_COLUMNS))
    columns = {name: [text for part in parts for text in part.columns[name].to_pylist()] for name in _COLUMNS}
    return _SplitFile(path, columns, np.concatenate([part.rows for part in parts]))


def _steps(parts: list[_SplitFile]) -> dict[str, Steps]:
    """User index -> its rows of train (shortest history first), valid and test."""
    train, valid, test = parts
    rows_of_user: defaultdict[str, Steps] = defaultdict(list)
    for row, user in enumerate(train.columns["user_id"]):
        rows_of_user[user].append((train, row))
    histories = train.columns["item_id_list"]
    for rows in rows_of_user.values():
        lengths = {row: histories[row].count(" ") for _, row in rows}
        # Histories are cut at a maximum, so long ones tie; UniSRec writes the longest first.
        if lengths[rows[0][1]] > lengths[rows[-1][1]]:
            rows.reverse()
        rows.sort(key=lambda step: lengths[step[1]])
    for table in (valid, test):
        seen: dict[str, int] = {}
        for row, user in enumerate(table.columns["user_id"]):
            if user in seen:
                raise UserError(
                    f"{table.at(row)}: user '{user}' is already on line {table.rows[seen[user]]}; keep one."
                )
            seen[user] = row
            rows_of_user[user].append((table, row))
    for user, steps in rows_of_user.items():
        if [table for table, _ in steps[-2:]] != [valid, test]:
            table, row = steps[0]
            raise UserError(
                f"{table.at(row)}: user '{user}' needs one line in {valid.path} and in {test.path}."
            )
    return dict(sorted(rows_of_user.items(), key=lambda pair: (len(pair[0]), pair[0])))


def _sequence(steps: Steps) -> list[str]:
    """A user's whole sequence of item indices, every history checked against what precedes it."""
    sequence: list[str] = []
    for table, row in steps:
        _, past, target = (table.columns[name][row] for name in _COLUMNS)
        history = past.split()
        if not sequence:
            sequence = history
        if not history or sequence[-len(history) :] != history:
            raise UserError(
                f"{table.at(row)}: item_id_list does not continue the user's earlier lines (it should end in "
                f"{' '.join(sequence[-3:])}); the files do not belong together or are not UniSRec's."
            )
        sequence = [*sequence, target]
    return sequence


def _names(path: Path, recipe: Recipe, repairs: Counter[str]) -> dict[str, str]:
    """Index -> original id, from a file of `id<tab>index` lines, in the order of the file."""
    names: dict[str, str] = {}
    lines = (
        line for first, block in blocks(path) for line in numbered_lines(block, first, path, recipe, repairs)
    )
    for number, line in lines:
        name, tab, index = line.rstrip("\r\n").rpartition("\t")
        if not tab or not index.isdecimal():
            raise UserError(
                f"{path}, line {number}: expected an id, a tab and its index, got '{line.strip()[:60]}'."
            )
        if index in names:
            raise UserError(f"{path}, line {number}: index {index} is already taken by '{names[index]}'.")
        names[index] = name
    if not names:
        raise UserError(f"{path} is empty; it needs a line `id<tab>index` for each id.")
    return names


def _look_up(index: str, names: dict[str, str], what: str, where: str, path: Path) -> str:
    if index not in names:
        raise UserError(f"{where}: {what} {index} is not in {path}; the files do not belong together.")
    return names[index]
