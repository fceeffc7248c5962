"""Hidden states of all tokens of the item texts behind one layer, computed once and kept.

They serve methods that never train the layers below. The cache is that of `benchmark.llm.states`. Symbols in
shape comments: `U` distinct texts, `N` tokens of all distinct texts, `D` width, `M` texts of a batch, `T`
tokens of its longest text, `n` tokens of a batch without padding, `m` items.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmark.files import lacks, nearest, writable
from benchmark.llm.cache import DTYPES, CacheEntry, ResumableFile, Spec, stored_dtype
from benchmark.llm.catalogue import LLM
from benchmark.llm.states import FORMAT, check_finite, check_layers, encode, llm_key
from benchmark.llm.tokens import Tokens
from methods.errors import UserError

GIB = 2**30
SPARE = GIB
"""Bytes of a disk that stay free for other programs."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TokenStates:
    """Hidden states of all tokens behind one layer."""

    tokens: Tokens
    values: Tensor
    """`[N, D]` about `centre`, in the precision in which they are stored; memory-mapped until moved."""
    centre: Tensor
    """`[2, D]` fp32, to be added to `values`: first of a text's first token, then of its other tokens. Zero
    where states are stored in float32.

    In 16 bits a state is kept as its distance from the mean of some: the first token of a middle layer can
    have nearly the same state in all texts and a very different one from other tokens, and of what little
    differs bfloat16's eight bits would keep nothing about zero, or about the mean of all tokens.
    """
    layer: int
    """0 the embeddings' output, `k` that of Transformer layer `k`."""
    key: str
    """Name of the cache entry."""
    seconds: float
    """Cold cost in seconds, loading and tokenising included; also on a hit."""
    hit: bool
    """Whether nothing had to be computed."""

    def to(self, device: torch.device | str) -> TokenStates:
        """For items on `device`. The states go there too where they take up at most half of its free memory;
        else they stay memory-mapped on the host, and each batch is copied from there."""
        device = torch.device(device)
        values = self.values
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if values.nbytes <= free / 2:
                values = values.to(device)
            else:
                log.warning(
                    "the token-level states (%s) stay on the host: %s has %s free",
                    _readable(values.nbytes), device, _readable(free),
                )  # fmt: skip
        return replace(self, tokens=self.tokens.to(device), values=values, centre=self.centre.to(device))

    def hidden_batch(self, items: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Like `Tokens.batch`: `hidden` `[m, T = width, D]` fp32, zero where padded, and `attention_mask`."""
        rows, real = self.tokens.row_indices(items, width)  # [m, T] twice
        states = self.values[rows.to(self.values.device)].to(items.device)  # [N, D] at [m, T] -> [m, T, D]
        hidden = states.float()
        hidden[:, 0] += self.centre[0]
        hidden[:, 1:] += self.centre[1]
        return hidden.mul_(real[:, :, None]), real.long()


def load_token_states(
    tokens: Tokens, llm: LLM, layer: int, dtype: str, cache: Path, device: torch.device | str = "cpu"
) -> TokenStates:
    """States of all `tokens` behind `layer`, from the cache or computed on `device`; they lie on the host.

    The model computes in float32 and without dropout; `dtype` ("float32" or "bfloat16") is what is stored.
    Interrupted work is taken up again, and several processes that need the same states compute them once.
    Raises `UserError` for a bad layer or dtype, and where the disk is full.
    """
    check_layers((layer,), llm)
    entry = token_entry_of(tokens, llm, dtype, cache)
    device = torch.device(device)
    hit = entry.ensure((layer,), lambda _: _compute_tokens(entry, tokens, llm, layer, dtype, device))
    file, (cost,) = entry.read(layer), entry.passes((layer,))
    key, seconds = entry.folder.name, float(cost["seconds"])
    return TokenStates(tokens, file["states"], file["centre"], layer, key, seconds, hit)


def token_states_bytes(tokens: Tokens, llm: LLM, dtype: str) -> int:
    """Disk space of one layer's states in bytes."""
    return len(tokens.ids) * llm.width * stored_dtype(dtype).itemsize


def keep_token_states(
    choice: Literal["auto", "on", "off"],
    limit_gib: float,
    tokens: Tokens,
    llm: LLM,
    layer: int,
    dtype: str,
    cache: Path,
) -> tuple[bool, str]:
    """Whether to keep the states of `layer` on disk, and a line for the log with the reason.

    `auto` keeps them if they exist already, or take up at most `limit_gib` GiB and fit on the disk of
    `cache`. Raises `UserError` where `on` cannot fit. Call it in one process and broadcast the result:
    free space changes as a process writes.
    """
    what = f"token-level states of {llm.name} behind layer {layer}"
    if choice == "off":
        return False, f"{what} are not kept (lower_states=off): the layers below run anew each time"
    size, free = token_states_bytes(tokens, llm, dtype), free_bytes(cache)
    room = f"{_readable(size)}, {_readable(free)} free in {cache}"
    if token_entry_of(tokens, llm, dtype, cache).holds(layer):
        return True, f"{what} are on disk already ({_readable(size)})"
    if not writable(cache):
        if choice == "on":
            raise lacks(cache, what)
        return False, f"{what} are not kept: the cache {cache} cannot be written"
    if size + SPARE > free:
        if choice == "on":
            raise UserError(
                f"{what} do not fit on the disk ({room}, of which {_readable(SPARE)} must stay free);"
                " free some, set ADAPTREC_CACHE to a larger disk, or take lower_states=off"
            )
        return False, f"{what} are not kept: they do not fit on the disk ({room})"
    if choice == "auto" and size > limit_gib * GIB:
        return False, f"{what} are not kept: {_readable(size)} is more than lower_states_gib={limit_gib:g}"
    return True, f"{what} are kept on disk ({room})"


def _readable(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def free_bytes(cache: Path) -> int:
    """Free bytes on the disk of a folder that need not exist."""
    return shutil.disk_usage(nearest(cache)).free


def token_entry_of(tokens: Tokens, llm: LLM, dtype: str, cache: Path) -> CacheEntry:
    """The cache entry. Its key has the tokens, and so needs neither texts nor tokenizer."""
    stored_dtype(dtype)
    ids = tokens.ids.cpu().numpy()
    key = {
        "token_format": FORMAT,
        "texts": len(tokens.distinct),
        "tokens": hashlib.sha256(ids.astype("<i4", copy=False).data).hexdigest(),
        "lengths": hashlib.sha256(tokens.distinct.astype("<i8", copy=False).data).hexdigest(),
        **llm_key(llm),
        "dtype": dtype if dtype == "float32" else f"{dtype} about two centres",
    }
    return CacheEntry.of(cache, key)


def _compute_tokens(
    entry: CacheEntry, tokens: Tokens, llm: LLM, layer: int, dtype: str, device: torch.device
) -> None:
    """One forward pass over the distinct texts, the empty one included."""
    centre: Tensor | None = None  # [2, D]

    def states_of(hidden: Sequence[Tensor], mask: Tensor, file: ResumableFile) -> Iterator[Tensor]:
        nonlocal centre
        real = mask.bool()  # [M, T]
        states = hidden[layer][real].float().cpu()  # [M, T, D] -> [n, D]
        check_finite(states)
        is_first = torch.zeros_like(real)
        is_first[:, 0] = True
        first = is_first[real].cpu()  # [M, T] -> [n], whether a token is its text's first
        if centre is None and file.batches:
            centre = file.first_tensor()
        if centre is None:
            centre = _centre(states, first, dtype)
            yield centre
        about = torch.where(first[:, None], centre[0], centre[1]) if centre.any() else 0.0  # [n, D]
        yield (states - about).to(DTYPES[dtype])

    shape = (len(tokens.ids), llm.width)
    spec: Spec = {"centre": ((2, llm.width), torch.float32), "states": (shape, DTYPES[dtype])}
    items, _ = tokens.texts(with_empty=True)  # [U], in the order of `tokens.ids`
    try:
        file, _, cost = encode(entry, (layer,), tokens, items, llm, device, spec, states_of)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        for folder in entry.folder.glob("parts-*"):
            shutil.rmtree(folder)
        raise UserError(
            f"the disk of {entry.folder.parent} is full: token-level states need"
            f" {_readable(token_states_bytes(tokens, llm, dtype))}; free some, set ADAPTREC_CACHE"
            " to a larger disk, or take lower_states=off"
        ) from error
    file.path.replace(entry.file(layer))
    shutil.rmtree(file.path.parent)
    entry.register({layer: file.sha256}, cost)


def _centre(states: Tensor, first: Tensor, dtype: str) -> Tensor:
    """Where to take 16 bits about, `[2, D]`: the means of the first batch `[n, D]`, whose first tokens are
    marked in `first` `[n]`. Zero in float32.

    The mean of the whole catalogue would be no better, and is not known before the last batch.
    """
    centre = torch.zeros(2, states.shape[1])
    if dtype != "float32":
        centre[0] = states[first].mean(0)  # [n, D] -> [D]
        if not first.all():
            centre[1] = states[~first].mean(0)  # [n, D] -> [D]
    return centre
