"""A model folder in memory: recommendations from histories of item ids.

The scores are those of the run: a recommender with SASRec's weights, whose method looks up the embeddings of
the folder, goes through the code that ranks test targets.

Symbols in shape comments: `I` items of the catalogue, `R` distinct inputs, `d` width, `u` users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmark.config import Settings, parse
from benchmark.measure import one_line, out_of_memory, pick_device
from benchmark.model.chunks import Ints
from benchmark.model.items import ItemEncoder, ItemInputs
from benchmark.model.recommender import Recommender
from benchmark.process.exit_status import refusal
from benchmark.serve.arguments import item_ids, item_texts, listed
from benchmark.serve.folder import (
    CONFIG,
    EMBEDDINGS,
    ITEMS,
    RECOMMENDER,
    ModelConfig,
    checked_file,
    read_config,
    read_tensors,
)
from benchmark.train.batches import Sequences
from benchmark.train.evaluate import CHUNK_USERS, best_items, encode_catalogue, user_states
from benchmark.train.rows import Rows
from methods.base import Items, Method, NoConfig
from methods.errors import UserError

if TYPE_CHECKING:
    from benchmark.serve.embed import TextEmbedder
    from benchmark.serve.items import EmbeddedItems


class StoredEmbeddings(Method):
    """Looks up embeddings that were computed before."""

    reads = "ids"

    def __init__(self, embeddings: Tensor, row: Tensor) -> None:
        super().__init__(NoConfig(), None)  # type: ignore[arg-type]
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("row", row, persistent=False)
        self.embeddings: Tensor
        """`[R, d]`"""
        self.row: Tensor
        """`[I]` row of each item."""

    def forward(self, items: Items) -> Tensor:
        """`[M]` -> `[M, d]`."""
        assert items.ids is not None
        return self.embeddings[self.row[items.ids]]


@dataclass(frozen=True)
class ScoredItem:
    """An item of a list."""

    item_id: str
    score: float
    """Cosine of the user's state and the item's embedding, or their dot product (`similarity`)."""
    text: str


@dataclass(frozen=True)
class Recommendation:
    """What one history gives."""

    items: list[ScoredItem]
    """The best first; none where the model knows no item of the history."""
    unknown: list[str] = field(default_factory=list)
    """Ids of the history that are not in the catalogue, in its order."""


class LoadedModel:
    """A model folder in memory; `load_model` makes it."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        recommender: Recommender,
        item_ids: Sequence[str],
        texts: Sequence[str],
    ) -> None:
        self.folder, self.config, self.recommender = folder, config, recommender
        self.item_ids, self.texts = list(item_ids), list(texts)
        self._index = {name: number for number, name in enumerate(self.item_ids)}
        self._embedder: TextEmbedder | None = None
        method = recommender.method
        assert isinstance(method, StoredEmbeddings)
        _, first = np.unique(method.row.cpu().numpy(), return_index=True)
        self.data = Sequences(
            np.zeros(0, np.int64), first[method.row.cpu().numpy()], np.arange(len(item_ids))
        )
        """The catalogue without users: which items have one embedding."""
        with torch.no_grad():
            self.catalogue = encode_catalogue(recommender, self.data, self.device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.recommender.encoder.device

    def recommend(
        self, history: Sequence[str | int], k: int = 10, exclude_history: bool = False
    ) -> Recommendation:
        """The `k` best items after a `history` of item ids, the most recent last.

        Whole numbers stand for ids of their digits. Raises `UserError` where the catalogue has none of the
        ids, or fewer than `k` items.
        """
        (found,) = self.recommend_batch([history], k, exclude_history)
        if not found.items:
            raise UserError(self.no_history(found))
        return found

    def recommend_batch(
        self, histories: Sequence[Sequence[str | int]], k: int = 10, exclude_history: bool = False
    ) -> list[Recommendation]:
        """The same for many users; one whose history has no known item gets an empty list."""
        self.check_k(k)
        known, unknown = self.numbered(histories)
        lists: list[list[ScoredItem]] = [[] for _ in known]
        some = [user for user, items in enumerate(known) if len(items)]
        for begin in range(0, len(some), CHUNK_USERS):
            users = some[begin : begin + CHUNK_USERS]
            for user, found in zip(
                users, self._best([known[user] for user in users], k, exclude_history), strict=True
            ):
                lists[user] = found
        return [Recommendation(*both) for both in zip(lists, unknown, strict=True)]

    def numbered(self, histories: Sequence[Sequence[str | int]]) -> tuple[list[Ints], list[list[str]]]:
        """The catalogue numbers of each history, and the ids that are not in the catalogue."""
        known, unknown = [], []
        for history in listed(histories, "histories are a list of lists of item ids"):
            names = item_ids(history)
            known.append(np.array([self._index[name] for name in names if name in self._index], np.int64))
            unknown.append([name for name in names if name not in self._index])
        return known, unknown

    def check_k(self, k: int) -> None:
        """Raise `UserError` for a length that no list can have."""
        whole = isinstance(k, Integral) and not isinstance(k, bool)
        if not whole or not 1 <= k <= len(self.item_ids):
            raise UserError(
                f"k must be a whole number from 1 to {len(self.item_ids)}, the items of the catalogue; "
                f"got {k!r}."
            )

    @staticmethod
    def no_history(found: Recommendation) -> str:
        """Why a history gives nothing."""
        if not found.unknown:
            return "the history is empty; give at least one item id."
        first, do = found.unknown[0], "give ids of items.parquet, or add items by --items"
        if len(found.unknown) == 1:
            return f"the catalogue does not have {first!r}, the only item of the history; {do}."
        return (
            f"the catalogue has none of the {len(found.unknown)} items of the history, {first!r} first; {do}."
        )

    def user_vectors(self, histories: Sequence[Sequence[str | int]]) -> Tensor:
        """States of users after histories of item ids, as scored: -> `[u, d]`.

        A score is the dot product with a row of `item_vectors`. Raises `UserError` for a history without an
        item of the catalogue.
        """
        known, unknown = self.numbered(histories)
        if not known:
            raise UserError("the list of histories is empty; give at least one.")
        for place, (items, absent) in enumerate(zip(known, unknown, strict=True)):
            if not len(items):
                raise UserError(f"histories[{place}]: {self.no_history(Recommendation([], absent))}")
        return self.vectors_by_number(known)

    @torch.no_grad()
    def vectors_by_number(self, known: Sequence[Ints]) -> Tensor:
        """The same for histories of catalogue numbers, none of them empty."""
        window = self.recommender.settings.window
        recent = [items[-window:] for items in known]
        length = np.array([len(items) for items in recent], np.int64)
        rows = Rows(np.arange(len(recent)), np.cumsum(length) - length, length, length - 1)
        data = replace(self.data, items=np.concatenate(recent))
        return self.recommender.scored(user_states(self.recommender, data, rows, self.catalogue))  # [u, d]

    def item_vectors(self) -> Tensor:
        """Embeddings of all items, as scored: -> `[I, d]`."""
        scaled = self.catalogue.embeddings * self.catalogue.scale.unsqueeze(1)  # [R, d]
        return scaled[self.catalogue.row]  # [R, d] at [I] -> [I, d]

    def _best(self, known: Sequence[Ints], k: int, exclude: bool) -> Iterator[list[ScoredItem]]:
        states, past = self.vectors_by_number(known), padded(known)  # [u, d], [u, H]
        counts = (past >= 0) & exclude
        parts = zip(
            *(
                torch.split(x.to(self.device), self.catalogue.users_at_once)
                for x in (states, past.clamp(min=0), counts)
            ),
            strict=True,
        )
        for u, history, left_out in parts:
            found = best_items(self.catalogue.scores(u), self.catalogue.row, history, left_out, k)  # [c, 2 k]
            for line in found.cpu().numpy():
                yield self.listed(line[:k], line[k:])

    def listed(self, items: Iterable[float], scores: Iterable[float]) -> list[ScoredItem]:
        """The items of a list, without the places that nothing fills (-1)."""
        return [
            ScoredItem(self.item_ids[int(item)], float(score), self.texts[int(item)])
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        ]

    def embed(self, texts: Sequence[str], llm: str | None = None) -> Tensor:
        """Embeddings of new texts `[m, d]`, as SASRec reads them, without training.

        The language model stays in memory for later calls. Raises `UserError` for what is no list of texts,
        and for a method that does not embed texts alone.
        """
        found = item_texts(texts)  # before a language model is loaded
        return self.embedder(llm)(found)

    def embedder(self, llm: str | None = None) -> TextEmbedder:
        """The method of the model, made at the first call; `llm` is where its language model is."""
        from benchmark.serve.embed import TextEmbedder

        if self._embedder is None:
            self._embedder = TextEmbedder(self.folder, self.config, self.device, llm)
        return self._embedder

    def check_new(self, names: Sequence[str], source: str) -> None:
        """Raise `UserError` for an id of new items that the catalogue has or that comes twice."""
        for name, times in Counter(names).items():
            if name in self._index:
                raise UserError(f"{source}: item {name!r} is in the catalogue already; leave it out.")
            if times > 1:
                raise UserError(f"{source}: item {name!r} is there {times} times; give each item once.")

    def with_items(self, items: EmbeddedItems) -> LoadedModel:
        """The model with new items at the end of its catalogue. Raises `UserError` for an id that it has or
        that comes twice, and for vectors of another width."""
        self.check_new(items.item_ids, items.source)
        method = self.recommender.method
        assert isinstance(method, StoredEmbeddings)
        new = torch.from_numpy(items.embeddings).to(self.device)  # [m, d]
        width = method.embeddings.shape[1]
        if new.shape[1:] != (width,):
            raise UserError(f"{items.source} does not hold vectors of width {width}; embed the items again.")
        row = torch.arange(len(new), device=self.device) + len(method.embeddings)  # [m]
        recommender = make_recommender(
            self.recommender.settings,
            torch.cat([method.embeddings, new]),  # [R, d], [m, d] -> [R + m, d]
            torch.cat([method.row, row]),  # [I], [m] -> [I + m]
            self.device,
        )
        recommender.sasrec.load_state_dict(self.recommender.sasrec.state_dict())
        return LoadedModel(
            self.folder,
            self.config,
            recommender,
            [*self.item_ids, *items.item_ids],
            [*self.texts, *items.texts],
        )


def padded(known: Sequence[Ints]) -> Tensor:
    """Numbers of items of each history, padded with -1: `[u, H]`."""
    width = max(map(len, known))
    table = np.full((len(known), width), -1, np.int64)
    for line, items in zip(table, known, strict=True):
        line[: len(items)] = items
    return torch.from_numpy(table)


def make_recommender(
    settings: Settings, embeddings: Tensor, row: Tensor, device: torch.device
) -> Recommender:
    """A recommender in eval mode over stored embeddings `[R, d]` and the row of each item `[I]`."""
    encoder = ItemEncoder(ItemInputs(lambda ids, _: Items(ids=ids)), settings, device)
    return Recommender(StoredEmbeddings(embeddings, row), encoder, len(row), len(row), settings).eval()


def load_model(folder: str | Path, device: str | torch.device | None = None) -> LoadedModel:
    """Load what `adaptrec export` wrote, on `device` (default: a GPU where there is one).

    Reads the folder alone. Raises `UserError` where it is not whole.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        return _loaded(folder, config, device)
    except UserError:
        raise
    except Exception as error:  # safetensors, Arrow and torch have many for a file that is none of theirs
        if out_of_memory(error) or refusal(error):
            raise
        raise UserError(
            f"{folder} holds no model that can be loaded ({one_line(error, 120)}); export the run again."
        ) from error


def _loaded(folder: Path, config: ModelConfig, device: str | torch.device | None) -> LoadedModel:
    import pyarrow.parquet as pq

    # the embeddings in the folder have the id embeddings of `ids=add` in them
    settings = replace(parse(Settings, config.settings, str(folder / CONFIG)), ids="none")
    items = read_tensors(folder, EMBEDDINGS, config)
    place = pick_device() if device is None else torch.device(device)
    recommender = make_recommender(settings, items["embeddings"], items["row"], place)
    recommender.sasrec.load_state_dict(read_tensors(folder, RECOMMENDER, config))
    table = pq.read_table(checked_file(folder, ITEMS, config))
    names, texts = (table.column(name).to_pylist() for name in ("item_id", "text"))
    if len(names) != len(items["row"]):
        raise UserError(f"{folder} has {len(names)} items and embeddings of {len(items['row'])}.")
    return LoadedModel(folder, config, recommender, names, texts)
