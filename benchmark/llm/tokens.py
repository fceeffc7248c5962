"""The catalogue's texts as tokens, for methods that run the language model themselves.

Symbols in shape comments: `I` items, `U` distinct texts, `N` tokens of all distinct texts, `m` items of a
chunk, `T` the chunk's width, `D` the language model's width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.llm import encoder
from benchmark.llm.catalogue import LLM, model_config
from methods.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WARN_FROM = 0.01
"""Share of collapsed items, or of unknown tokens, from which a run warns."""
BLOCK = 131_072
"""Texts that are tokenised at a time: a tokenizer keeps much more than the tokens themselves."""
log = logging.getLogger(__name__)


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

    def texts(self, with_empty: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """An item of each distinct text, the longest first, `[U]`; and the text of each item, `[I]`.

        Of the texts in the catalogue, or of all in `ids`: also of the empty one, whose item is `I`.
        """
        start = self.start if with_empty else self.start[:-1]
        _, first, text = np.unique(start.cpu().numpy(), return_index=True, return_inverse=True)
        return first, text

    def to(self, device: torch.device | str) -> Tokens:
        """The same with its tensors on `device`."""
        ids, start, length = (tensor.to(device) for tensor in (self.ids, self.start, self.length))
        return replace(self, ids=ids, start=start, length=length)

    def row_indices(self, items: Tensor, width: int) -> tuple[Tensor, Tensor]:
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
        rows, real = self.row_indices(items, width)
        ids = self.ids[rows].long()  # [N] at [m, T] -> [m, T]
        return torch.where(real, ids, self.pad_id), real.long()


def load_tokens(texts: Sequence[str], llm: LLM) -> Tokens:
    """Tokenise the catalogue `texts` `[I]`, cut at `llm.max_tokens`; logs how many were cut.

    The prompt that the model's authors state stands before each text. Raises `UserError` where there is no
    text, a text has no token, or the embedding no row for a token.
    """
    if not texts:
        raise UserError("there are no item texts to tokenise")
    begun = time.perf_counter()
    tokenizer, vocabulary = encoder.load_tokenizer(llm), int(model_config(llm).vocab_size)
    prompt = llm.intended.prompt if llm.intended else ""
    if llm.intended and (parts := [part for part in llm.intended.left_out if part != "Normalize"]):
        log.warning("%s: %s is not applied; docs/llms.md says what can be", llm.name, ", ".join(parts))
    row = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    distinct = list(row)
    flat, lengths, sequences = [], [], []
    for begin in range(0, len(distinct), BLOCK):
        prompted = [prompt + text for text in distinct[begin : begin + BLOCK]]
        block = tokenize(tokenizer, prompted, llm.max_tokens, begin)
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
        empty = tokenizer(prompt)["input_ids"][: llm.max_tokens] or [tokenizer.pad_token_id]
        flat.append(np.asarray(empty, np.int32))
        lengths.append(np.array([len(empty)]))
    sizes = np.concatenate(lengths)  # [U]
    order = np.argsort(-sizes, kind="stable")  # [U], so that texts of near-equal length are neighbours
    distinct_sizes = sizes[order]
    begins = np.cumsum(distinct_sizes) - distinct_sizes  # [U], in the new order
    shift = (np.cumsum(sizes) - sizes)[order] - begins  # [U], from a text's new place to its old one
    ids = np.concatenate(flat)[np.arange(sizes.sum()) + np.repeat(shift, distinct_sizes)]  # [N]
    start = np.empty_like(begins)
    start[order] = begins  # [U], by the old numbers
    rows = np.fromiter((row[text] for text in (*texts, "")), np.int64, len(texts) + 1)  # [I + 1]
    own = sizes[rows]  # [U] at [I + 1] -> [I + 1]
    return Tokens(
        ids=torch.from_numpy(ids),
        start=torch.from_numpy(start[rows]),
        length=torch.from_numpy(own.copy()),
        lengths=own,
        distinct=distinct_sizes,
        # a padding token without a row, as is added to decoders: padding is masked, so any token serves
        pad_id=int(tokenizer.pad_token_id) if tokenizer.pad_token_id < vocabulary else 0,
        seconds=time.perf_counter() - begun,
        statistics=statistics,
    )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int, before: int = 0
) -> list[list[int]]:
    """Token ids of each text, special tokens included, cut at `max_tokens`; logs how many were cut.

    `before` texts came in earlier calls: an error counts from there. Raises `UserError` for a text that has
    no token at all (an empty one, with a tokenizer that adds none).
    """
    ids: list[list[int]]
    if tokenizer.is_fast:
        # without the masks, types and offsets that a call of the tokenizer makes of each text and that
        # nothing reads: on short texts they take a third of its time
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        ids = [encoding.ids for encoding in backend.encode_batch_fast(list(texts))]
    else:
        ids = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    if long := [row for row, tokens in enumerate(ids) if len(tokens) > max_tokens]:
        # The tokenizer cuts, not we: its closing special token must stay.
        cut = tokenizer([texts[row] for row in long], truncation=True, max_length=max_tokens)["input_ids"]
        for row, tokens in zip(long, cut, strict=True):
            ids[row] = tokens
        log.warning("%d of %d texts were cut at %d tokens", len(long), len(texts), max_tokens)
    if (row := next((row for row, tokens in enumerate(ids) if not tokens), -1)) >= 0:
        raise UserError(
            f"item text {before + row + 1} has no tokens: {texts[row][:40]!r}; drop it or give it a title"
        )
    return ids


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
