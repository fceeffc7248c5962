"""Whether a language model can tell the texts of a catalogue apart: what its tokenizer makes of them.

Texts in a script of which a tokenizer knows no letter all become the same unknown tokens, and long texts
with one beginning are equal after the cut at the longest input. Such items have one embedding, whatever is
trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLD = 0.01
"""Share of collapsed items, or of unknown tokens, from which a run warns."""


@dataclass(frozen=True)
class TokenFacts:
    """What became of a catalogue's texts; a fact of dataset, language model and longest input."""

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
        if max(self.items_collapsed / items, self.unknown_tokens) < TOLD:
            return None
        return (
            f"{llm} loses a part of what the texts say: {self.described(items)}; its tokenizer may not know "
            f"the script, or texts may be equal up to their first {max_tokens} tokens"
        )

    def stored(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def read_facts(stored: object) -> TokenFacts | None:
    """The facts that `TokenFacts.stored` gave; None where `stored` is something else."""
    names = {field.name for field in fields(TokenFacts)}
    if not isinstance(stored, Mapping) or set(stored) != names:
        return None
    return TokenFacts(**stored)


def token_facts(
    sequences: NDArray[np.int64], text: NDArray[np.int64], unknown: int, tokens: int
) -> TokenFacts:
    """The facts of a catalogue.

    Args:
        sequences: `[U]` a number for each distinct text, equal where their tokens are.
        text: `[I]` the distinct text of each item.
        unknown: unknown tokens of the distinct texts.
        tokens: all their tokens, without special ones.
    """
    _, sequence, texts = np.unique(sequences, return_inverse=True, return_counts=True)  # [U], [Q]
    of_item = sequence[text]  # [U] at [I] -> [I]
    items = np.bincount(of_item, minlength=len(texts))  # [Q]
    return TokenFacts(
        token_sequences=len(texts),
        items_with_equal_tokens=int((items[of_item] > 1).sum()),
        items_collapsed=int((texts[of_item] > 1).sum()),
        unknown_tokens=unknown / tokens if tokens else 0.0,
    )
