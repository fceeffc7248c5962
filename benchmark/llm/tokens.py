"""The catalogue's texts as tokens, for methods that run the language model themselves.

Symbols in shape comments: `I` items, `U` distinct texts, `N` tokens of all distinct texts, `m` items of a
chunk, `T` the chunk's width, `D` the language model's width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.llm import encoder
from benchmark.llm.catalogue import LLM
from methods.errors import UserError

WARN_FROM = 0.01
"""Share of collapsed items, or of unknown tokens, from which a run warns."""
BLOCK = 131_072
"""Texts that are tokenised at a time: a tokenizer keeps much beside the tokens themselves."""


@dataclass(frozen=True)
class TokenStatistics:
    """Whether a language model can tell the texts of a catalogue apart.

    Texts in a script of which a tokenizer knows no letter all become the same unknown tokens, and long texts
    with one beginning are equal after the cut at the longest input. Such items have one embedding, whatever
    is trained.
    """

    token_sequences: int
    """Different token sequences of the items' texts."""
    items_with_equal_tokens: int
    """Items whose tokens are those of another item."""
    items_collapsed: int
    """Those of them whose tokens are also the tokens of another text."""
    unknown_tokens: float
    """Share of unknown tokens among those of the distinct texts, without the special tokens that a tokenizer
    adds to each."""

    def described(self, items: int) -> str:
        """In words; `items` is the number of items in the catalogue."""
        share = self.items_collapsed / items
        return (
            f"{self.items_collapsed} of {items} items ({share:.1%}) have the tokens of another text, "
            f"{self.unknown_tokens:.1%} of all tokens are unknown"
        )

    def warning(self, items: int, llm: str, max_tokens: int) -> str | None:
        """One line, where a part of the catalogue that counts is lost on the language model."""
        if max(self.items_collapsed / items, self.unknown_tokens) < WARN_FROM:
            return None
        return (
            f"{llm} loses a part of what the texts say: {self.described(items)}; its tokenizer may not know "
            f"the script, or texts may be equal up to their first {max_tokens} tokens"
        )

    def stored(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def read_statistics(stored: object) -> TokenStatistics | None:
    """What `TokenStatistics.stored` gave; None where `stored` is something else."""
    names = {field.name for field in fields(TokenStatistics)}
    if not isinstance(stored, Mapping) or set(stored) != names:
        return None
    return TokenStatistics(**stored)


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of all texts in one row, equal texts once, the longest text first.

    Item `I`, one past the catalogue, is the empty text: what stands in a padded slot where every slot is
    encoded.
    """

    ids: Tensor
    """`[N]` int32."""
    start: Tensor
    """`[I + 1]` int64, where each item's tokens begin in `ids`."""
    length: Tensor
    """`[I + 1]` int64, how many each item has; special tokens included."""
    lengths: NDArray[np.int64]
    """`length` on the host: what widths are chosen from, without waiting for a device."""
    distinct: NDArray[np.int64]
    """`[U]` lengths of the distinct texts in the order in which they lie in `ids`, so never rising."""
    pad_id: int
    """Token of padded positions, which the mask hides."""
    seconds: float
    """What loading the tokenizer and tokenising took."""
    statistics: TokenStatistics

    @property
    def empty(self) -> int:
        """`I`, the item that stands for the empty text."""
        return len(self.lengths) - 1

    def texts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the catalogue's distinct texts, the longest first: an item that has it `[U]`; and the text of
        each item `[I]`."""
        _, first, text = np.unique(self.start[:-1].cpu().numpy(), return_index=True, return_inverse=True)
        return first, text

    def to(self, device: torch.device | str) -> Tokens:
        """The same with its tensors on `device`."""
        ids, start, length = (tensor.to(device) for tensor in (self.ids, self.start, self.length))
        return replace(self, ids=ids, start=start, length=length)

    def places(self, items: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Rows of `ids` that the tokens of `items` `[m]` lie in, `[m, T]`, and which are real, `[m, T]` bool.

        A padded position points at some row. Built on the device of `items`, which is that of the tensors,
        without a word to the host.
        """
        along = torch.arange(width, device=items.device)  # [T]
        real = along < self.length[items][:, None]  # [T] < [m, 1] -> [m, T]
        rows = self.start[items][:, None] + along  # [m, 1] + [T] -> [m, T]
        return rows.clamp_(max=len(self.ids) - 1), real

    def batch(self, items: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """`input_ids` and `attention_mask`, both `[m, T = width]` int64 and padded right, of `items` `[m]`.

        `width` is at least the longest of them: `lengths[items].max()` on the host; less would cut texts.
        """
        rows, real = self.places(items, width)
        ids = self.ids[rows].long()  # [N] at [m, T] -> [m, T]
        return torch.where(real, ids, self.pad_id), real.long()


def load_tokens(texts: Sequence[str], llm: LLM) -> Tokens:
    """Tokenise the catalogue `texts` `[I]`, cut at `llm.max_tokens`; logs how many were cut.

    Raises `UserError` where there is no text, a text has no token, or the embedding no row for a token.
    """
    if not texts:
        raise UserError("there are no item texts to tokenise")
    start = time.perf_counter()
    tokenizer, vocabulary = encoder.load_tokenizer(llm), encoder.vocabulary(llm)
    row = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    distinct = list(row)
    flat, lengths, sequences = [], [], []
    for begin in range(0, len(distinct), BLOCK):
        block = encoder.tokenize(tokenizer, distinct[begin : begin + BLOCK], llm.max_tokens, begin)
        lengths.append(np.fromiter(map(len, block), np.int64, len(block)))
        flat.append(np.fromiter(chain.from_iterable(block), np.int32, int(lengths[-1].sum())))
        # 64 bits suffice: the chance that two of 10 million different sequences are taken for equal is 10^-5
        sequences.append(np.fromiter(map(hash, map(tuple, block)), np.int64, len(block)))
        _check_rows(flat[-1], vocabulary, llm)
    text_rows = np.fromiter((row[text] for text in texts), np.int64, len(texts))  # [I]
    statistics = _statistics(tokenizer, flat, np.concatenate(sequences), text_rows)
    if "" not in row:
        row[""] = len(row)
        # A tokenizer without special tokens makes nothing of it: one padding token, read as if it were real.
        empty = tokenizer("")["input_ids"][: llm.max_tokens] or [tokenizer.pad_token_id]
        flat.append(np.asarray(empty, np.int32))
        lengths.append(np.array([len(empty)]))
    ids, order, begins, sizes = _longest_first(np.concatenate(flat), np.concatenate(lengths))
    rows = np.fromiter((row[text] for text in (*texts, "")), np.int64, len(texts) + 1)  # [I + 1]
    own = sizes[rows]  # [U] at [I + 1] -> [I + 1]
    return Tokens(
        ids=torch.from_numpy(ids),
        start=torch.from_numpy(begins[rows]),
        length=torch.from_numpy(own.copy()),
        lengths=own,
        distinct=sizes[order],
        # a padding token without a row, as is added to decoders: padding is masked, so any token serves
        pad_id=int(tokenizer.pad_token_id) if tokenizer.pad_token_id < vocabulary else 0,
        seconds=time.perf_counter() - start,
        statistics=statistics,
    )


def _check_rows(ids: NDArray[np.int32], vocabulary: int, llm: LLM) -> None:
    """Raise `UserError` where the embedding has no row for a token."""
    if (largest := int(ids.max())) >= vocabulary:
        raise UserError(
            f"the tokenizer of language model '{llm.name}' gives token id {largest}, and its embedding has "
            f"{vocabulary} rows (0 to {vocabulary - 1}): the tokenizer has tokens that the model does not "
            "know. Call model.resize_token_embeddings(len(tokenizer)), train the new rows, and save the "
            "model; or take the tokenizer that the model was trained with."
        )


def _statistics(
    tokenizer: Any, flat: Sequence[NDArray[np.int32]], sequences: NDArray[np.int64], text: NDArray[np.int64]
) -> TokenStatistics:
    """`flat` holds the tokens of the distinct texts `[U]`, `sequences` `[U]` a number for each, equal where
    their tokens are, `text` `[I]` the distinct text of each item."""
    special = tokenizer("")["input_ids"]  # what every text gets
    unknown_id = tokenizer.unk_token_id
    unknown = 0 if unknown_id is None else sum(int((part == unknown_id).sum()) for part in flat)
    unknown = max(0, unknown - len(sequences) * special.count(unknown_id))
    tokens = sum(map(len, flat)) - len(sequences) * len(special)
    _, sequence, texts = np.unique(sequences, return_inverse=True, return_counts=True)  # [U], [Q]
    of_item = sequence[text]  # [U] at [I] -> [I]
    items = np.bincount(of_item, minlength=len(texts))  # [Q]
    return TokenStatistics(
        token_sequences=len(texts),
        items_with_equal_tokens=int((items[of_item] > 1).sum()),
        items_collapsed=int((texts[of_item] > 1).sum()),
        unknown_tokens=unknown / tokens if tokens else 0.0,
    )


def _longest_first(
    flat: NDArray[np.int32], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Reorder the texts of `flat` `[N]` with `sizes` `[U]`.

    -> the tokens `[N]`; the texts in their new order `[U]`; where each text now begins, and its size, both
    `[U]` by the old numbers. So a batch of texts of near-equal length is one stretch of rows.
    """
    order = np.argsort(-sizes, kind="stable")  # [U]
    before = np.cumsum(sizes) - sizes  # [U], where a text began
    after = np.empty_like(before)  # [U]
    after[order] = np.cumsum(sizes[order]) - sizes[order]
    moved = np.empty_like(flat)
    shift = np.repeat(after - before, sizes)  # [U] -> [N]
    moved[np.arange(len(flat)) + shift] = flat
    return moved, order, after, sizes
