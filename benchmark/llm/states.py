"""Hidden states of all item texts, computed once and kept: `[I, A, D]` from one file a layer.

The cache is content-addressed: `<cache>/states/<key>/layer-06.safetensors`, each `[I, D]`, beside
`states.json`, which holds the whole key, each file's SHA-256 and what computing it cost. Symbols in shape
comments: `I` items, `U` distinct texts, `A` layers, `D` width, `M` texts of a batch, `m` of a part.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.files import write_atomically
from benchmark.llm import encoder, parts
from benchmark.llm.catalogue import LLM
from benchmark.llm.entry import DTYPES, Entry, check_layers, digest, facts
from benchmark.llm.token_facts import TokenFacts, read_facts
from benchmark.llm.tokens import load_tokens
from benchmark.progress import Progress
from methods.errors import UserError, unknown

FORMAT = 1
"""Raise it when states are computed or stored differently: older caches are then not found."""
TOKEN_BUDGET = {"cpu": 4_096, "cuda": 65_536}
"""Tokens of a batch with padding: enough to fill the device, few enough to stay in the processor's cache."""
STATES_BYTES = 2**31
"""Largest size of one batch's hidden states over all layers."""
log = logging.getLogger(__name__)


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
    facts: TokenFacts | None = None
    """Whether the texts can be told apart by their tokens; None for made-up states."""


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
    wanted = tuple(layers)
    check_layers(wanted, llm)
    if not wanted or len(set(wanted)) != len(wanted):
        raise UserError(f"layers must be distinct and at least one, got {list(wanted)}")
    if dtype not in DTYPES:
        raise unknown("states dtype", dtype, DTYPES)
    if not texts:
        raise UserError("there are no item texts to encode")
    entry = entry_of(texts, llm, pooling, dtype, cache)
    hit = entry.ensure(
        wanted, lambda absent: _compute(entry, texts, llm, absent, dtype, torch.device(device))
    )
    values, mean = _read(entry, wanted)
    # caches of before tokens were counted do not say it
    facts = read_facts(entry.passes(wanted)[0].get("texts")) or load_tokens(texts, llm).facts
    return States(values, mean, wanted, entry.folder.name, entry.seconds(wanted), hit, facts)


def entry_of(texts: Sequence[str], llm: LLM, pooling: str, dtype: str, cache: Path) -> Entry:
    """Where the states of `texts` are kept."""
    return Entry.of(cache, _key(texts, llm, encoder.resolve_pooling(pooling, llm), dtype))


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


def _read(entry: Entry, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """States about their mean `[I, A, D]` (one layer stays memory-mapped), and the mean `[A, D]`."""
    found = [entry.read(layer) for layer in layers]
    states = [file["states"] for file in found]  # A of [I, D]
    mean = torch.stack([file.get("mean", torch.zeros(states[0].shape[1])) for file in found])  # [A, D]
    return (states[0][:, None] if len(states) == 1 else torch.stack(states, dim=1)), mean  # [I, A, D]


def _write(
    entry: Entry, layers: Sequence[int], values: Tensor, row: Tensor, dtype: str, cost: dict[str, Any]
) -> None:
    """Add `values` `[U, A, D]` at `row` `[I]`, one file a layer, and then the sidecar that vouches for it."""
    from safetensors.torch import save

    digests = {}
    for layer, states in zip(layers, values.unbind(1), strict=True):  # A of [U, D]
        data = save(_stored(states[row], dtype))  # [U, D] -> [I, D]
        write_atomically(entry.file(layer), data)
        digests[layer] = hashlib.sha256(data).hexdigest()
    entry.vouch(digests, cost)


def _compute(
    entry: Entry, texts: Sequence[str], llm: LLM, layers: Sequence[int], dtype: str, device: torch.device
) -> None:
    """One forward pass over the distinct texts for all missing layers, in parts that survive a kill."""
    start = time.perf_counter()
    tokens = load_tokens(texts, llm).to(device)
    items, row = tokens.texts()  # [U], [I]
    budget = token_budget(llm, device)
    batches = encoder.length_batches(tokens.lengths[items].tolist(), token_budget=budget)
    # The batches, hence the numbers, depend on the plan alone and never on where an earlier try was cut off.
    plan = digest({"key": entry.key, "layers": list(layers), "budget": budget, "device": device.type})
    store = parts.Parts(entry.unfinished(layers, plan), plan, batches)
    values = torch.empty(len(items), len(layers), llm.width)  # [U, A, D]
    earlier = store.load_into(values)
    if store.done:
        log.warning("resuming: %d of %d texts were encoded before", store.texts_done, len(items))
    if len(store.done) < len(batches):
        model = encoder.load_model(llm).to(device)

        def encode(rows: Sequence[int]) -> Tensor:
            of = items[rows]  # [M]
            ids, mask = tokens.batch(torch.from_numpy(of).to(device), int(tokens.lengths[of[0]]))  # [M, T]
            return encoder.forward_layers(model, ids, mask, layers, entry.key["pooling"])  # [M, A, D]

        _fill(values, store, encode)
    count, seconds = int(tokens.lengths[items].sum()), time.perf_counter() - start + earlier
    cost = {**facts(seconds, len(texts), len(items), count, device), "texts": tokens.facts.stored()}
    _write(entry, layers, values, torch.from_numpy(row), dtype, cost)
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


def _fill(values: Tensor, store: parts.Parts, encode: Callable[[Sequence[int]], Tensor]) -> None:
    """Encode the batches that are not done into their rows of `values` `[U, A, D]`, keeping parts."""
    with Progress("encoding item texts", len(values), store.texts_done) as progress, torch.inference_mode():
        for index, rows in enumerate(store.batches):
            if index in store.done:
                continue
            states = encode(rows)  # [M, A, D]
            check_finite(states)
            values[torch.tensor(rows)] = states.to("cpu", values.dtype)  # [M, A, D]
            store.add(index, values)
            progress.advance(len(rows))
    store.flush(values)
