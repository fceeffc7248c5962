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
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmark.data.raw import BATCH_ROWS, ITEMS, RawData, RawFile, interactions_batch
from benchmark.data.recipe import Recipe
from benchmark.data.tables import item_batches, open_table, require_columns
from benchmark.data.text_files import blocks, numbered_lines
from methods.errors import UserError

Ints = npt.NDArray[np.int64]
_COLUMNS = ("user_id", "item_id_list", "item_id")


class _Line(NamedTuple):
    """A line of a split, but for its user; `str()` says where it is."""

    path: Path
    number: int
    history: str
    target: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.number}"


def read_unisrec(files: Mapping[str, Path], recipe: Recipe, repairs: Counter[str]) -> RawData:
    """Rebuild every user's sequence; raises `UserError` where a history contradicts the targets before it."""
    recipe = replace(recipe, quotes="none")  # the format has no quoting
    raw = {role: RawFile(path, recipe, repairs) for role, path in files.items()}
    line_numbers: list[Ints] = []
    return RawData(
        interactions=_interactions(raw, line_numbers),
        items=_items(raw["text"], replace(raw["item2index"], repairs=Counter())),
        # A rebuilt interaction has no line of its own: report the user's line of the test file.
        place=lambda row: raw["test"].at(np.concatenate(line_numbers)[row]),
        item_place=raw["text"].at,
        repairs=repairs,
    )


def _interactions(files: Mapping[str, RawFile], line_numbers: list[Ints]) -> Iterator[Any]:
    """Batches of interactions numbered from 0; `line_numbers` gets the line of each."""
    lines_of_users = iter(_lines_of_users(files).items())
    user_names, item_names = (_names(files[role]) for role in ("user2index", "item2index"))
    done = 0
    while block := list(islice(lines_of_users, BATCH_ROWS // 16)):
        users: list[str] = []
        items: list[str] = []
        times: list[int] = []
        numbers: list[int] = []
        for user, lines in block:
            sequence, test = _sequence(lines), lines[-1]
            users += [_look_up(user, user_names, "user", test, files["user2index"].path)] * len(sequence)
            items += [_look_up(item, item_names, "item", test, files["item2index"].path) for item in sequence]
            times += range(len(sequence))
            numbers += [test.number] * len(sequence)
        line_numbers.append(np.asarray(numbers, dtype=np.int64))
        yield interactions_batch(users, items, times, np.arange(done, done + len(users)))
        done += len(users)


def _items(file: RawFile, indices: RawFile) -> Iterator[Any]:
    """The items in the order of their indices, those without one at the end."""
    table = pa.Table.from_batches(item_batches(file), ITEMS)
    order = {name: rank for rank, name in enumerate(_names(indices).values())}
    ranks = [order.get(name, len(order)) for name in table.column("item_id").to_pylist()]
    yield from table.take(np.argsort(ranks, kind="stable")).to_batches(BATCH_ROWS)


def _read(file: RawFile) -> list[tuple[str, _Line]]:
    """(user index, the rest) of each line."""
    table = open_table(file)
    require_columns(table, *_COLUMNS)
    lines = []
    for part in table.parts(_COLUMNS):
        users, histories, targets = (part.columns[name].to_pylist() for name in _COLUMNS)
        for user, *line in zip(users, part.rows.tolist(), histories, targets, strict=True):
            lines.append((user, _Line(file.path, *line)))
    return lines


def _lines_of_users(files: Mapping[str, RawFile]) -> dict[str, list[_Line]]:
    """User index -> its lines of train (shortest history first), valid and test."""
    train, valid, test = (_read(files[name]) for name in ("train", "valid", "test"))
    lines_of_users: defaultdict[str, list[_Line]] = defaultdict(list)
    for user, line in train:
        lines_of_users[user].append(line)
    for lines in lines_of_users.values():
        # Histories are cut at a maximum, so long ones tie; UniSRec writes the longest first.
        if lines[0].history.count(" ") > lines[-1].history.count(" "):
            lines.reverse()
        lines.sort(key=lambda line: line.history.count(" "))
    for user, line in (*valid, *test):
        lines = lines_of_users[user]
        if lines and lines[-1].path == line.path:
            raise UserError(f"{line}: user '{user}' is already on line {lines[-1].number}; keep one.")
        lines.append(line)
    ends = [files["valid"].path, files["test"].path]
    for user, lines in lines_of_users.items():
        if [line.path for line in lines[-2:]] != ends:
            raise UserError(f"{lines[0]}: user '{user}' needs one line in {ends[0]} and in {ends[1]}.")
    return dict(sorted(lines_of_users.items(), key=lambda pair: (len(pair[0]), pair[0])))


def _sequence(lines: list[_Line]) -> list[str]:
    """A user's whole sequence of item indices, every history checked against what precedes it."""
    sequence: list[str] = []
    for line in lines:
        history = line.history.split()
        if not sequence:
            sequence = history
        if not history or sequence[-len(history) :] != history:
            raise UserError(
                f"{line}: item_id_list does not continue the user's earlier lines (it should end in "
                f"{' '.join(sequence[-3:])}); the files do not belong together or are not UniSRec's."
            )
        sequence = [*sequence, line.target]
    return sequence


def _names(file: RawFile) -> dict[str, str]:
    """Index -> original id, from a file of `id<tab>index` lines, in the order of the file."""
    names: dict[str, str] = {}
    lines = (line for first, block in blocks(file.path) for line in numbered_lines(file, block, first))
    for number, line in lines:
        name, tab, index = line.rstrip("\r\n").rpartition("\t")
        if not tab or not index.isdecimal():
            raise UserError(
                f"{file.at(number)}: expected an id, a tab and its index, got '{line.strip()[:60]}'."
            )
        if index in names:
            raise UserError(f"{file.at(number)}: index {index} is already taken by '{names[index]}'.")
        names[index] = name
    if not names:
        raise UserError(f"{file.path} is empty; it needs a line `id<tab>index` for each id.")
    return names


def _look_up(index: str, names: dict[str, str], what: str, where: _Line, path: Path) -> str:
    if index not in names:
        raise UserError(f"{where}: {what} {index} is not in {path}; the files do not belong together.")
    return names[index]
