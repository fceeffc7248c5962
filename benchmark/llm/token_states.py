"""Hidden states of every token of the catalogue behind one frozen layer, computed once and kept on disk.

A token is a row: `[N, D]` in the order of `Tokens.ids`. Symbols as in `tokens.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmark.llm.catalogue import LLM
from benchmark.llm.tokens import Tokens


@dataclass(frozen=True, eq=False)
class TokenStates:
    """Hidden states of all tokens behind one layer."""

    tokens: Tokens
    values: Tensor
    """`[N, D]` about `mean`, in the precision in which they are stored; memory-mapped until moved."""
    mean: Tensor
    """`[D]` fp32, to be added to `values`. Zero where states are stored in float32."""
    layer: int
    """0 the embeddings' output, `k` that of Transformer layer `k`."""
    key: str
    """Name of the cache entry."""
    seconds: float
    """Cold cost in seconds, tokenising included; also on a hit."""
    hit: bool
    """Whether nothing had to be computed."""

    def to(self, device: torch.device | str) -> TokenStates:
        """For items on `device`. The states go there too where they take up at most half of its free memory;
        else they stay memory-mapped on the host and each batch is copied."""
        raise NotImplementedError

    def hidden_batch(self, items: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Like `Tokens.batch`: `hidden` `[m, T = width, D]` fp32, zero where padded, and `attention_mask`."""
        raise NotImplementedError


def load_token_states(
    tokens: Tokens, llm: LLM, layer: int, dtype: str, cache: Path, device: torch.device | str = "cpu"
) -> TokenStates:
    """States of all `tokens` behind `layer`, from the cache or computed on `device`; they lie on the host."""
    raise NotImplementedError


def token_states_bytes(tokens: Tokens, llm: LLM, dtype: str) -> int:
    """Disk space of one layer's states in bytes."""
    raise NotImplementedError


def keep_token_states(
    choice: Literal["auto", "on", "off"],
    limit_gib: float,
    tokens: Tokens,
    llm: LLM,
    layer: int,
    dtype: str,
    cache: Path,
) -> tuple[bool, str]:
    """Whether to keep the states of `layer` on disk, and one line that says so and why, for the log.

    `auto` keeps them where they are there already, or take up at most `limit_gib` GiB and fit on the disk of
    `cache`. Raises `UserError` where `on` cannot fit. Decide in one process and tell the others: free space
    changes as one of them writes.
    """
    raise NotImplementedError
