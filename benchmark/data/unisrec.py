"""Reader of UniSRec's form of the RecBole atomic files: sequences are rebuilt from prefixes and targets.

`X.train.inter`, `X.valid.inter` and `X.test.inter` have the header `user_id:token  item_id_list:token_seq
item_id:token`, the history cut to its most recent items (50 in UniSRec's own files); `X.text` gives
`item_id:token  text:token_seq`, one line an item; `X.item2index` and `X.user2index` map original ids to the
indices of the others, two columns without a header. Format as UniSRec's `process_amazon.py` writes it
(github.com/RUCAIBox/UniSRec).
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.data.readers import Raw, Table, check_items, read_delimited, read_text
from benchmark.data.recipe import Recipe
from methods.errors import UserError

_COLUMNS = ("user_id", "item_id_list", "item_id")


Steps = list[tuple[Table, int]]
"""The rows (table, row) of one user, in time order."""


def read_unisrec(files: dict[str, Path], recipe: Recipe, repairs: Counter[str]) -> Raw:
    """Rebuild every user's sequence; raises `UserError` where a history contradicts the targets before it."""
    recipe = replace(recipe, quotes="none")  # the format has no quoting
    parts = [
        read_delimited(files[name], "\t", recipe, repairs, typed=True) for name in ("train", "valid", "test")
    ]
    for table in parts:
        table.need(*_COLUMNS)
    item_ids, texts = check_items(
        read_delimited(files["text"], "\t", recipe, repairs, typed=True), recipe, repairs
    )
    user_names, item_names = (_names(files[role], recipe, repairs) for role in ("user2index", "item2index"))
    users: list[str] = []
    items: list[str] = []
    times: list[int] = []
    lines: list[int] = []
    for user, steps in _steps(parts).items():
        sequence, (test, row) = _sequence(steps), steps[-1]
        users += [_look_up(user, user_names, "user", test.at(row), files["user2index"])] * len(sequence)
        items += [_look_up(item, item_names, "item", test.at(row), files["item2index"]) for item in sequence]
        times += range(len(sequence))
        lines += [int(test.rows[row])] * len(sequence)
    # A rebuilt interaction has no line of its own: the user's line of the test file stands for it.
    rows = np.asarray(lines, dtype=np.int64)
    places = Table(files["test"], {"user_id": users, "item_id": items}, rows, "line", ())
    order = {name: rank for rank, name in enumerate(item_names.values())}
    ranked = sorted(range(len(item_ids)), key=lambda i: order.get(item_ids[i], len(order)))
    return Raw(
        users=users,
        items=items,
        times=np.asarray(times, dtype=np.int64),
        places=places,
        item_ids=[item_ids[i] for i in ranked],
        texts=[texts[i] for i in ranked],
        repairs=repairs,
    )


def _steps(parts: list[Table]) -> dict[str, Steps]:
    """User index -> its rows of train (shortest history first), valid and test."""
    train, valid, test = parts
    found: defaultdict[str, Steps] = defaultdict(list)
    for row, user in enumerate(train.columns["user_id"]):
        found[user].append((train, row))
    histories = train.columns["item_id_list"]
    for rows in found.values():
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
            found[user].append((table, row))
    for user, steps in found.items():
        if [table for table, _ in steps[-2:]] != [valid, test]:
            table, row = steps[0]
            raise UserError(
                f"{table.at(row)}: user '{user}' needs one line in {valid.path} and in {test.path}."
            )
    return dict(sorted(found.items(), key=lambda pair: (len(pair[0]), pair[0])))


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
    for number, line in enumerate(io.StringIO(read_text(path, recipe, repairs)), start=1):
        name, tab, index = line.rstrip("\r\n").rpartition("\t")
        if not tab or not index.isdecimal():
            raise UserError(
                f"{path}, line {number}: wanted an id, a tab and its index, got '{line.strip()[:60]}'."
            )
        if index in names:
            raise UserError(f"{path}, line {number}: index {index} is already taken by '{names[index]}'.")
        names[index] = name
    return names


def _look_up(index: str, names: dict[str, str], what: str, where: str, path: Path) -> str:
    if index not in names:
        raise UserError(f"{where}: {what} {index} is not in {path}; the files do not belong together.")
    return names[index]
