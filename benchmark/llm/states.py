"""Hidden states of all item texts, computed once and kept: `[I, A, D]` from one file a layer.

The cache is content-addressed: `<cache>/states/<key>/layer-06.safetensors`, each `[I, D]`, beside
`states.json`, which holds the whole key, each file's SHA-256 and what computing it cost. Symbols in shape
comments: `I` items, `U` distinct texts, `A` layers, `D` width, `M` texts of a batch.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.files import write_atomically
from benchmark.llm import encoder
from benchmark.llm.cache import DTYPES, CacheEntry, check_layers, digest, pass_cost
from benchmark.llm.catalogue import LLM
from benchmark.llm.resumable import ResumableFile, add_batches
from benchmark.llm.tokens import TokenStatistics, load_tokens, read_statistics
from methods.errors import UserError, unknown

FORMAT = 1
"""Raise it when states are computed or stored differently: older caches are then not found."""
TOKEN_BUDGET = {"cpu": 4_096, "cuda": 65_536}
"""Tokens of a batch with padding: enough to fill the device, few enough to stay in the processor's cache."""
STATES_BYTES = 2**31
"""Largest size of one batch's hidden states over all layers."""
TEXTS = "texts"
"""What the token statistics are called among the costs of a pass."""


@dataclass(frozen=True)
class States:
    """Hidden states of the catalogue."""

    values: Tensor
    """`[I, A, D]` on the CPU, about `mean`; memory-mapped where one layer was asked for, else read."""
    mean: Tensor
    """`[A, D]` fp32, to be added to `values`. Zero where states are stored in float32.

    In 16 bits the catalogue's mean is kept apart: the first token's states of one layer can have a mean of 10
    and a spread of 0.004, of which bfloat16's eight bits would keep nothing.
    """
    layers: tuple[int, ...]
    """The layers of axis `A`, as asked."""
    key: str
    """Name of the cache entry."""
    seconds: float
    """Cold cost in seconds, loading and tokenising included; also on a hit. Layers that were added later
    cost a pass of their own; the dearest pass counts, since one pass gives them all."""
    hit: bool
    """Whether nothing had to be computed."""
    statistics: TokenStatistics | None = None
    """Of the texts; None for made-up states."""


def load_states(
    texts: Sequence[str],
    llm: LLM,
    layers: Sequence[int],
    pooling: str,
    dtype: str,
    cache: Path,
    device: torch.device | str = "cpu",
) -> States:
    """States of `texts` in `layers` (0 the embeddings, `n_layers` the top), from the cache or computed.

    The model computes in float32; `dtype` ("float32" or "bfloat16") is what is stored. Interrupted work is
    taken up again, and several processes that want the same states compute them once. Raises `UserError` for
    a bad layer, pooling, dtype or text.
    """
    layers = tuple(layers)
    check_layers(layers, llm)
    if not layers or len(set(layers)) != len(layers):
        raise UserError(f"layers must be distinct and at least one, got {list(layers)}")
    if dtype not in DTYPES:
        raise unknown("states dtype", dtype, DTYPES)
    if not texts:
        raise UserError("there are no item texts to encode")
    entry = entry_of(texts, llm, pooling, dtype, cache)
    hit = entry.ensure(
        layers, lambda absent: _compute(entry, texts, llm, absent, dtype, torch.device(device))
    )
    values, mean = _read(entry, layers)
    statistics = read_statistics(entry.passes(layers)[0].get(TEXTS))
    if statistics is None:  # a cache that was made before tokens were counted
        statistics = load_tokens(texts, llm).statistics
        entry.amend(layers, {TEXTS: statistics.stored()})
    return States(values, mean, layers, entry.folder.name, entry.seconds(layers), hit, statistics)


def entry_of(texts: Sequence[str], llm: LLM, pooling: str, dtype: str, cache: Path) -> CacheEntry:
    """Where the states of `texts` are kept."""
    return CacheEntry.of(cache, _key(texts, llm, encoder.resolve_pooling(pooling, llm), dtype))


def _key(texts: Sequence[str], llm: LLM, pooling: str, dtype: str) -> dict[str, Any]:
    """All that the states depend on, save the layer, which is in the file's name."""
    content = hashlib.sha256()
    for text in texts:
        data = text.encode()
        content.update(len(data).to_bytes(8, "little") + data)  # with lengths: ["ab"] is not ["a", "b"]
    return {
        "format": FORMAT,
        "items": len(texts),
        "texts": content.hexdigest(),
        "llm_revision": llm.revision,
        "llm_weights": llm.digest,
        "llm_config": llm.config_digest,
        "tokenizer": llm.tokenizer_digest,
        "max_tokens": llm.max_tokens,
        "pooling": pooling,
        "dtype": dtype if dtype == "float32" else f"{dtype} about the mean",
    }


def _read(entry: CacheEntry, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """States about their mean `[I, A, D]` (one layer stays memory-mapped), and the mean `[A, D]`."""
    files = [entry.read(layer) for layer in layers]
    states = [file["states"] for file in files]  # A of [I, D]
    mean = torch.stack([file.get("mean", torch.zeros(states[0].shape[1])) for file in files])  # [A, D]
    return (states[0][:, None] if len(states) == 1 else torch.stack(states, dim=1)), mean  # [I, A, D]


def _write(
    entry: CacheEntry, layers: Sequence[int], values: Tensor, row: Tensor, dtype: str, cost: dict[str, Any]
) -> None:
    """Add `values` `[U, A, D]` at `row` `[I]`, one file a layer, and then their digests."""
    from safetensors.torch import save

    digests = {}
    for layer, states in zip(layers, values.unbind(1), strict=True):  # A of [U, D]
        data = save(_stored(states[row], dtype))  # [U, D] -> [I, D]
        write_atomically(entry.file(layer), data)
        digests[layer] = hashlib.sha256(data).hexdigest()
    entry.register(digests, cost)


def _compute(
    entry: CacheEntry,
    texts: Sequence[str],
    llm: LLM,
    layers: Sequence[int],
    dtype: str,
    device: torch.device,
) -> None:
    """One forward pass over the distinct texts for all missing layers, in a file that survives a kill."""
    from safetensors.torch import load_file

    start = time.perf_counter()
    tokens = load_tokens(texts, llm).to(device)
    items, text_of_item = tokens.texts()  # [U], [I]
    budget = token_budget(llm, device)
    batches = encoder.length_batches(tokens.lengths[items].tolist(), token_budget=budget)
    # The batches, hence the numbers, depend on the plan alone and never on where an earlier try was cut off.
    plan = digest({"key": entry.key, "layers": list(layers), "budget": budget, "device": device.type})

    def load() -> Callable[[Sequence[int]], Iterable[Tensor]]:
        model = encoder.load_model(llm).to(device)

        def encode(batch: Sequence[int]) -> Iterable[Tensor]:
            of = items[batch]  # [M]
            ids, mask = tokens.batch(torch.from_numpy(of).to(device), int(tokens.lengths[of[0]]))  # [M, T]
            states = encoder.forward_layers(model, ids, mask, layers, entry.key["pooling"])  # [M, A, D]
            check_finite(states)
            return (states.float().cpu(),)

        return encode

    shape = (len(items), len(layers), llm.width)
    with ResumableFile(entry.unfinished(layers, plan), plan, {"states": (shape, torch.float32)}) as file:
        earlier = file.seconds
        add_batches(file, batches, "encoding item texts", load)
        file.write_journal()
    row = np.empty(len(items), np.int64)  # [U], where a text's states are in the file
    row[np.concatenate(batches)] = np.arange(len(items))
    count, seconds = int(tokens.lengths[items].sum()), time.perf_counter() - start + earlier
    cost = pass_cost(seconds, len(texts), len(items), count, device) | {TEXTS: tokens.statistics.stored()}
    _write(entry, layers, load_file(file.path)["states"], torch.from_numpy(row[text_of_item]), dtype, cost)
    for folder in entry.folder.glob("parts-*"):
        shutil.rmtree(folder)


def _stored(states: Tensor, dtype: str) -> dict[str, Tensor]:
    """What a layer's file holds: `[I, D]` as computed, or in 16 bits about its mean `[D]`."""
    if dtype == "float32":
        return {"states": states}
    mean = states.double().mean(0).float()  # [D]
    return {"states": (states - mean).to(DTYPES[dtype]), "mean": mean}


def token_budget(llm: LLM, device: torch.device) -> int:
    """Tokens of a batch: the device's, or fewer where a large model's states would not fit."""
    fits = STATES_BYTES // ((llm.n_layers + 1) * llm.width * 4)
    return min(TOKEN_BUDGET.get(device.type, TOKEN_BUDGET["cpu"]), fits)


def check_finite(states: Tensor) -> None:
    """Raise `UserError` where the language model gave something else than numbers."""
    if not states.isfinite().all():
        raise UserError("the language model gives states that are not finite; is the checkpoint whole?")
