"""Small dataset folders for tests."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

from benchmark.data import pipeline
from benchmark.data.catalogue import find
from benchmark.data.database import Scratch, scratch
from benchmark.data.download import input_files
from benchmark.data.recipe import Recipe
from benchmark.data.staging import stage

USERS = {"ann": "a b c d", "bob": "b c a", "cy": "d a b c"}
TEXTS = {"a": "red pen", "b": "blue pen", "c": "green mug", "d": "grey mug"}
TEN = {item: f"thing {item}" for item in "abcdefghij"}
TWELVE = {f"u{n}": " ".join("abcdefghij"[(n * 3 + step) % 10] for step in range(6)) for n in range(12)}
"""Texts of ten items, and twelve users of them, for runs that end in a blink."""
BLINK = ("precision=no", "width=8", "sasrec_inner=8", "batch_size=16", "learning_rate=0.05")
"""Settings of such runs, which learn enough to move a rank."""


def lines(rows: Iterable[Iterable[object]], delimiter: str = "\t") -> str:
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


def interaction_rows(users: Mapping[str, str] = USERS, clock: int = 0) -> list[tuple[str, str, int]]:
    return [
        (user, item, clock * number + time)
        for number, (user, items) in enumerate(users.items())
        for time, item in enumerate(items.split())
    ]


def write_folder(
    folder: Path,
    users: Mapping[str, str] = USERS,
    texts: Mapping[str, str] = TEXTS,
    recipe: str | None = None,
    clock: int = 0,
) -> Path:
    """A folder in the plain TSV form."""
    folder.mkdir(parents=True, exist_ok=True)
    header = ("user_id", "item_id", "timestamp")
    (folder / "interactions.tsv").write_text(
        lines([header, *interaction_rows(users, clock)]), encoding="utf-8"
    )
    (folder / "items.tsv").write_text(lines([("item_id", "title"), *texts.items()]), encoding="utf-8")
    if recipe is not None:
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    return folder


def recipe_of(folder: Path, **options: Any) -> Recipe:
    return replace(find(str(folder)), **options)


@dataclass
class Read:
    """What a dataset's files hold before any sequence is made, as lists in the order of the files."""

    users: list[str]
    items: list[str]
    times: list[int | float]
    item_ids: list[str]
    texts: list[str]
    repairs: Counter[str]


def read(recipe: Recipe) -> Read:
    """Read and stage the recipe's files; interactions with unknown items and items without text stay."""
    recipe = replace(recipe, unknown_items="drop", no_text="keep")
    raw, _ = pipeline.read(recipe, input_files(recipe, Path("no-cache")))
    with tempfile.TemporaryDirectory() as folder, scratch(Path(folder)) as database:
        staged = stage(raw, recipe, database, lambda step: None)
        names = '''SELECT user_id, item_id, time FROM kept JOIN users USING ("user")
            JOIN (SELECT item, item_id FROM items) USING (item) ORDER BY kept."row"'''
        users, items, times = _columns(database, names, 3)
        ids, texts, number = _columns(database, "SELECT item_id, text, item FROM items", 3)
        first = [staged.allowed[i] for i in number]
    del raw.repairs["interactions with unknown items dropped"]  # asked for here, not by the test
    return Read(users, items, times, [*compress(ids, first)], [*compress(texts, first)], raw.repairs)


def _columns(database: Scratch, query: str, count: int) -> list[list[Any]]:
    batches = list(database.stream(query))
    return [[value for batch in batches for value in batch.column(i).to_pylist()] for i in range(count)]


def write_unisrec(
    folder: Path, users: Mapping[str, list[str]], texts: Mapping[str, str], cut: int = 50
) -> None:
    """The six files as UniSRec's preprocessing lays them out: longest prefix first, histories cut."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {item: str(i) for i, item in enumerate(texts)}
    rows: dict[str, list[tuple[object, str, str]]] = {"train": [], "valid": [], "test": []}
    for number, items in enumerate(users.values()):
        codes = [index[item] for item in items]
        for end in range(len(codes) - 1, 0, -1):
            part = {1: "test", 2: "valid"}.get(len(codes) - end, "train")
            rows[part].append((number, " ".join(codes[:end][-cut:]), codes[end]))
    header = ("user_id:token", "item_id_list:token_seq", "item_id:token")
    for part, found in rows.items():
        (folder / f"X.{part}.inter").write_text(lines([header, *found]), encoding="utf-8")
    text_rows = [("item_id:token", "text:token_seq"), *texts.items()]
    (folder / "X.text").write_text(lines(text_rows), encoding="utf-8")
    (folder / "X.item2index").write_text(lines(index.items()), encoding="utf-8")
    (folder / "X.user2index").write_text(lines((user, i) for i, user in enumerate(users)), encoding="utf-8")
