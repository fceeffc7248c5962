"""Hidden states of all item texts, computed once and kept: one vector an item and layer.

The cache is content-addressed: `<cache>/states/<key>/layer-06.safetensors`, next to `states.json`, which
holds the whole key, each file's SHA-256 and the cost of computing it. Symbols in shape comments: `I` items,
`U` distinct texts, `N` tokens of all distinct texts, `A` layers, `D` width, `M` texts of a batch, `T` tokens
of its longest text, `n` tokens of a batch without padding.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.files import write_atomically
from benchmark.llm import encoder
from benchmark.llm.cache import DTYPES, CacheEntry, ResumableFile, Spec, digest, stored_dtype
from benchmark.llm.catalogue import LLM
from benchmark.llm.server_states import encode_by_server
from benchmark.llm.tokens import Tokens, TokenStatistics, load_tokens
from benchmark.process.progress import Progress
from methods.errors import UserError
from methods.pooling import Pooling, pool

FORMAT = 1
"""Raise it when states are computed or stored differently: older caches are then not found."""
TOKEN_BUDGET = {"cpu": 4_096, "cuda": 65_536}
"""Tokens of a batch with padding: enough to fill the device, few enough to stay in the processor's cache."""
STATES_BYTES = 2**31
"""Largest size of one batch's hidden states over all layers."""
ALL_LAYERS_BYTES = 2**30
"""Largest size of the pooled states of all layers up to which a pass keeps them all: a method that reads
other layers then needs no pass of its own."""
TEXTS = "texts"
"""Name of the token statistics among the costs of a pass."""
log = logging.getLogger(__name__)
StatesOf = Callable[[Sequence[Tensor], Tensor, ResumableFile], Iterable[Tensor]]
"""From the hidden states of a batch (`hidden_states`) and its mask `[M, T]` to what a file stores."""


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
    stored_mean: Tensor | None = None
    """`mean` as it is stored, `[A, D]`, where dense layers of the model have been applied; else None."""


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
    taken up again, and several processes that need the same states compute them once. Raises `UserError` for
    a bad layer, pooling, dtype or text.
    """
    layers = tuple(layers)
    check_layers(layers, llm)
    if not layers or len(set(layers)) != len(layers):
        raise UserError(f"layers must be distinct and at least one, got {list(layers)}")
    if not texts:
        raise UserError("there are no item texts to encode")
    entry = entry_of(texts, llm, pooling, dtype, cache)
    hit = entry.ensure(
        layers,
        lambda absent: _compute(
            entry, texts, llm, stored_layers(entry, absent, len(texts), llm), dtype, torch.device(device)
        ),
    )
    files, passes = [entry.read(layer) for layer in layers], entry.passes(layers)
    states = [file["states"] for file in files]  # A of [I, D]
    mean = torch.stack([file.get("mean", torch.zeros(llm.width)) for file in files])  # [A, D]
    values = states[0][:, None] if len(states) == 1 else torch.stack(states, dim=1)  # [I, A, D]
    statistics: TokenStatistics | None = None
    if TEXTS in passes[0]:
        statistics = TokenStatistics(**passes[0][TEXTS])
    elif llm.server is None:  # a cache that was made before tokens were counted
        statistics = load_tokens(texts, llm).statistics
    seconds = max(cost["seconds"] for cost in passes)
    return States(values, mean, layers, entry.folder.name, seconds, hit, statistics)


def stored_layers(entry: CacheEntry, absent: Sequence[int], items: int, llm: LLM) -> list[int]:
    """The layers that a pass stores when `absent` are asked for, in ascending order.

    A pass runs the whole language model, so that it can keep every layer that is not there; it does up to
    `ALL_LAYERS_BYTES`. Layers that are there are not computed again.
    """
    if llm.server or items * (llm.n_layers + 1) * llm.width * 4 > ALL_LAYERS_BYTES:
        return sorted(absent)
    return [layer for layer in range(llm.n_layers + 1) if layer in absent or not entry.holds(layer)]


def check_layers(layers: Sequence[int], llm: LLM) -> None:
    """Raise `UserError` for a layer that the language model does not have."""
    for layer in layers:
        if not 0 <= layer <= llm.n_layers:
            raise UserError(
                f"language model '{llm.name}' has no layer {layer}: allowed are 0 (embeddings)"
                f" to {llm.n_layers} (top)"
            )


def entry_of(texts: Sequence[str], llm: LLM, pooling: str, dtype: str, cache: Path) -> CacheEntry:
    """The cache entry of the pooled states of `texts`; its key has all that they depend on but the layer."""
    stored_dtype(dtype)
    content = hashlib.sha256()
    for text in texts:
        data = text.encode()
        content.update(len(data).to_bytes(8, "little") + data)  # with lengths: ["ab"] is not ["a", "b"]
    key = {
        "format": FORMAT,
        "items": len(texts),
        "texts": content.hexdigest(),
        **llm_key(llm),
        "dtype": dtype if dtype == "float32" else f"{dtype} about the mean",
    }
    if llm.server is None:
        key |= {
            "tokenizer": llm.tokenizer_digest,
            "max_tokens": llm.max_tokens,
            "pooling": encoder.resolve_pooling(pooling, llm),
        }
    if llm.intended and llm.intended.prompt:
        key["prompt"] = llm.intended.prompt
    if llm.append_eos:
        key["append_eos"] = True
    return CacheEntry.of(cache, key)


def llm_key(llm: LLM) -> dict[str, Any]:
    """The part of an entry's key that names the language model's files, or the model of a server."""
    if llm.server is not None:
        return {"server": llm.name, "probe": llm.digest}
    key = {"llm_revision": llm.revision, "llm_weights": llm.digest, "llm_config": llm.config_digest}
    return key if llm.quantize == "none" else key | {"quantize": llm.quantize}


def _compute(
    entry: CacheEntry, texts: Sequence[str], llm: LLM, layers: Sequence[int], dtype: str, device: torch.device
) -> None:
    """One pass over the distinct texts for all missing layers."""
    from safetensors.torch import load_file, save

    if llm.server is not None:
        path, rows, cost = encode_by_server(entry, texts, llm.server, llm.width)
    else:
        path, rows, cost = _encode_here(entry, texts, llm, layers, device)
    values = load_file(path)["states"]  # [U, A, D]
    row = torch.from_numpy(rows)  # [I]
    digests = {}
    for layer, states in zip(layers, values.unbind(1), strict=True):  # A of [U, D]
        tensors = {"states": states[row]}  # [U, D] -> [I, D]
        if dtype != "float32":
            mean = tensors["states"].double().mean(0).float()  # [D]
            tensors = {"states": (tensors["states"] - mean).to(DTYPES[dtype]), "mean": mean}
        data = save(tensors)
        write_atomically(entry.file(layer), data)
        digests[layer] = hashlib.sha256(data).hexdigest()
    shutil.rmtree(path.parent)
    entry.register(digests, cost | {"items_per_second": len(texts) / cost["seconds"]})


def _encode_here(
    entry: CacheEntry, texts: Sequence[str], llm: LLM, layers: Sequence[int], device: torch.device
) -> tuple[Path, NDArray[np.int64], dict[str, Any]]:
    """One forward pass: -> a file with `states` `[U, A, D]`, the place `[I]` of each item there, the cost."""
    tokens = load_tokens(texts, llm)
    items, text_of_item = tokens.texts()  # [U], [I]

    def states_of(hidden: Sequence[Tensor], mask: Tensor, _: ResumableFile) -> Iterator[Tensor]:
        yield pooled_states(hidden, mask, layers, entry.key["pooling"])

    spec = {"states": ((len(items), len(layers), llm.width), torch.float32)}
    file, rows, cost = encode(entry, layers, tokens, items, llm, device, spec, states_of)
    return file.path, rows[text_of_item], cost | {TEXTS: asdict(tokens.statistics)}  # [U] at [I] -> [I]


def encode(
    entry: CacheEntry,
    layers: Sequence[int],
    tokens: Tokens,
    items: NDArray[np.int64],
    llm: LLM,
    device: torch.device,
    spec: Spec,
    states_of: StatesOf,
) -> tuple[ResumableFile, NDArray[np.int64], dict[str, Any]]:
    """Run the language model over the texts of `items` `[U]`, and store `states_of` each batch in a file.

    Returns the file, the place `[U]` of each text in it, and the cost. A pass that was killed is continued.
    """
    start, tokens = time.perf_counter(), tokens.to(device)
    lengths, budget = tokens.lengths[items], token_budget(llm, device)  # [U]
    batches = encoder.length_batches(lengths.tolist(), budget)
    # The batches, hence the numbers, depend on the plan alone and never on where an earlier try was cut off.
    plan = digest({"key": entry.key, "layers": list(layers), "budget": budget, "device": device.type})
    with closing(ResumableFile(entry.unfinished(plan), spec)) as file:
        earlier, done = file.seconds, sum(map(len, batches[: file.batches]))
        if done:
            log.warning("resuming: %d of %d texts were encoded before", done, len(items))
        if done < len(items):
            model = encoder.load_frozen(llm, device)
            with Progress("encoding item texts", len(items), done) as progress, torch.inference_mode():
                for batch in batches[file.batches :]:
                    width = int(lengths[batch[0]])
                    ids, mask = tokens.batch(torch.from_numpy(items[batch]).to(device), width)  # [M, T]
                    for values in states_of(hidden_states(model, ids, mask), mask, file):
                        file.add(values)
                    file.finish_batch()
                    progress.advance(len(batch))
        file.write_journal()
    rows = np.empty(len(items), np.int64)  # [U]
    rows[np.concatenate(batches)] = np.arange(len(items))
    seconds = tokens.seconds + earlier + time.perf_counter() - start
    return file, rows, _cost(seconds, len(items), int(lengths.sum()), device)


def hidden_states(model: nn.Module, ids: Tensor, mask: Tensor) -> Sequence[Tensor]:
    """States of every token of a padded batch in every layer: `[M, T]` twice -> `n + 1` of `[M, T, D]`.

    Layer 0 is the output of the embeddings, layer `k` that of the k-th Transformer layer, layer `n` the
    model's `last_hidden_state`: in a decoder that ends in a norm, the state after that norm.
    """
    states: Sequence[Tensor] = model(
        input_ids=ids, attention_mask=mask, output_hidden_states=True
    ).hidden_states
    return states


def pooled_states(hidden: Sequence[Tensor], mask: Tensor, layers: Sequence[int], pooling: Pooling) -> Tensor:
    """One vector for each text and layer, fp32 on the CPU, of what `hidden_states` gives: -> `[M, A, D]`.

    Raises `UserError` where one is not finite.
    """
    pooled = [pool(hidden[layer], mask, pooling) for layer in layers]
    states = torch.stack(pooled, dim=1)  # A of [M, D] -> [M, A, D]
    check_finite(states)
    return states.float().cpu()


def _cost(seconds: float, texts: int, tokens: int, device: torch.device) -> dict[str, Any]:
    """The cost of a pass over the catalogue, and the machine."""
    from importlib.metadata import version

    return {
        "seconds": seconds,
        "items_per_second": texts / seconds,
        "distinct_texts": texts,
        "tokens": tokens,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def token_budget(llm: LLM, device: torch.device) -> int:
    """Tokens of a batch: the device's, or fewer where a large model's states would not fit."""
    fits = STATES_BYTES // ((llm.n_layers + 1) * llm.width * 4)
    return min(TOKEN_BUDGET.get(device.type, TOKEN_BUDGET["cpu"]), fits)


def check_finite(states: Tensor) -> None:
    """Raise `UserError` where the language model gave something else than numbers."""
    if not states.isfinite().all():
        raise UserError("the language model gives states that are not finite; is the checkpoint whole?")
