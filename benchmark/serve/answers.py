"""Recommend for the histories that a user gave, and print the lists and what became of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tabulate import tabulate

from benchmark.escape import json_line, visible_line
from benchmark.results.measures import several
from benchmark.serve.histories import UserHistory, is_file, read_histories
from benchmark.serve.index import HNSWIndex
from benchmark.serve.model import LoadedModel, Recommendation
from benchmark.train.evaluate import CHUNK_USERS
from methods.errors import UserError

TEXT = 60
"""Characters of an item's text in a table."""


class Recommends(Protocol):
    """Exact search or an index."""

    def recommend_batch(
        self, histories: Sequence[Sequence[str]], k: int = 10, exclude_history: bool = False
    ) -> list[Recommendation]:
        """See `LoadedModel.recommend_batch`."""


@dataclass
class Tally:
    """What became of the histories so far."""

    users: int = 0
    without: int = 0
    """Users whose history has no known item."""
    unknown: int = 0
    """Items of histories that are not in the catalogue."""
    users_with_unknown: int = 0
    first: str = ""
    """The first of these items."""
    seconds: float = 0.0
    """Of computing the lists."""
    hits: int = 0
    places: int = 0

    def add(self, found: Sequence[Recommendation]) -> None:
        """Count some more users."""
        self.users += len(found)
        for one in found:
            self.without += not one.items
            self.unknown += len(one.unknown)
            self.users_with_unknown += bool(one.unknown)
            self.first = self.first or next(iter(one.unknown), "")

    def lines(self) -> list[str]:
        """For the terminal, beside the lists."""
        lines = []
        if self.unknown:
            which = f"{several(self.unknown, 'item')} of {several(self.users_with_unknown, 'history')}"
            are, were = ("is", "was") if self.unknown == 1 else ("are", "were")
            lines.append(f"{which} {are} not in the catalogue and {were} passed over, {self.first!a} first")
        if self.without:
            have = "has" if self.without == 1 else "have"
            lines.append(
                f"{self.without:,} of {several(self.users, 'user')} {have} no known item and got no list"
            )
        return lines


def recommend(
    model: LoadedModel, words: str, k: int, exclude_history: bool, form: str, index: str = "exact"
) -> None:
    """Print the lists of the histories `words` to stdout, and counts and throughput to stderr.

    Raises `UserError` where no history has a known item.
    """
    model.check_k(k)
    search: Recommends = model
    if index == "hnsw":
        search = HNSWIndex(model)
    tally, many = Tally(), is_file(words)
    for batch in read_histories(words, CHUNK_USERS):
        histories = [user.items for user in batch]
        start = time.perf_counter()
        found = search.recommend_batch(histories, k, exclude_history)
        tally.seconds += time.perf_counter() - start
        tally.add(found)
        if not many and not found[0].items:
            raise UserError(model.no_history(found[0]))
        if isinstance(search, HNSWIndex):
            hits, places = search.recall(histories, k, exclude_history, found)
            tally.hits, tally.places = tally.hits + hits, tally.places + places
        if form == "jsonl":
            print(_json_lines(batch, found), flush=True)
        elif any(one.items for one in found):
            print(_table(batch, found, many), flush=True)
    if tally.without == tally.users:
        if tally.users == 1:
            raise UserError("the only history has no item of the catalogue.")
        raise UserError(f"none of the {tally.users:,} histories has an item of the catalogue.")
    lines = tally.lines()
    if isinstance(search, HNSWIndex):
        lines.append(
            f"hnsw: {tally.hits / tally.places:.2%} of the items of exact search found; the index of "
            f"{len(model.item_ids):,} items took {search.seconds:.2f} s to build"
        )
    if many:
        lines.append(
            f"{several(tally.users, 'user')} in {tally.seconds:.2f} s: "
            f"{tally.users / tally.seconds:,.0f} a second ({index} search, {model.device.type})"
        )
    for line in lines:
        print(line, file=sys.stderr)


def _json_lines(batch: Sequence[UserHistory], found: Sequence[Recommendation]) -> str:
    """One object a user."""
    return "\n".join(
        json_line({
            "user": user.user,
            "items": [{"item_id": x.item_id, "score": round(x.score, 6), "text": x.text} for x in one.items],
            "unknown": one.unknown,
        })
        for user, one in zip(batch, found, strict=True)
    )  # fmt: skip


def _table(batch: Sequence[UserHistory], found: Sequence[Recommendation], many: bool) -> str:
    """A line for each item; with the user where there are several."""
    rows = [
        ([visible_line(user.user)] if many else [])
        + [str(rank), visible_line(item.item_id), f"{item.score:.4f}", visible_line(item.text, TEXT)]
        for user, one in zip(batch, found, strict=True)
        for rank, item in enumerate(one.items, 1)
    ]
    heads = [*(["user"] if many else []), "rank", "item", "score", "text"]
    return tabulate(
        rows,
        heads,
        disable_numparse=True,
        colalign=[*(["left"] if many else []), "right", "left", "right", "left"],
    )
