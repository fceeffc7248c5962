"""Hidden states of all item texts, computed once and kept: `[I, A, D]` from one file a layer.

The cache is content-addressed: `<cache>/states/<key>/layer-06.safetensors`, each `[I, D]`, beside
`states.json`, which holds the whole key, each file's SHA-256 and what computing it cost. Symbols in shape
comments: `I` items, `U` distinct texts, `A` layers, `D` width, `M` texts of a batch, `m` of a part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from benchmark.llm import encoder, parts
from benchmark.llm.catalogue import LLM
from benchmark.llm.files import sha256
from benchmark.llm.progress import Progress
from benchmark.record import write_atomically, write_json
from methods.errors import UserError, unknown

FORMAT = 1
"""Raise it when states are computed or stored differently: older caches are then not found."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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
    wanted = _check_layers(layers, llm)
    if dtype not in DTYPES:
        raise unknown("states dtype", dtype, DTYPES)
    if not texts:
        raise UserError("there are no item texts to encode")
    key = _key(texts, llm, encoder.resolve_pooling(pooling, llm), dtype)
    entry = _Entry(cache / "states" / _digest(key), key)
    missing = entry.missing(wanted, warn=False)
    hit = not missing
    if missing:
        with _locked(entry.folder):
            missing = entry.missing(wanted, warn=True)  # another process may have done it meanwhile
            hit = not missing
            if missing:
                _compute(entry, texts, llm, missing, dtype, torch.device(device))
    values, mean = entry.read(wanted)
    return States(values, mean, wanted, entry.folder.name, entry.seconds(wanted), hit)


def _check_layers(layers: Sequence[int], llm: LLM) -> tuple[int, ...]:
    for layer in layers:
        if not 0 <= layer <= llm.n_layers:
            raise UserError(
                f"language model '{llm.name}' has no layer {layer}: allowed are 0 (embeddings)"
                f" to {llm.n_layers} (top)"
            )
    if not layers or len(set(layers)) != len(layers):
        raise UserError(f"layers must be distinct and at least one, got {list(layers)}")
    return tuple(layers)


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


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time for one cache entry; the system frees the lock of a killed process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is computing these hidden states; waiting for it (%s)", lock.lock_file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Entry:
    """One folder of the cache and the key that it must hold."""

    folder: Path
    key: dict[str, Any]

    def _file(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:02d}.safetensors"

    @property
    def _sidecar(self) -> Path:
        return self.folder / "states.json"

    def _read_sidecar(self, warn: bool) -> dict[str, Any]:
        """What is known about the layers; nothing where the file is absent, unreadable or of another key."""
        empty: dict[str, Any] = {"key": self.key, "layers": {}, "passes": []}
        if not self._sidecar.is_file():
            return empty
        try:
            found = json.loads(self._sidecar.read_text(encoding="utf-8"))
            if found["key"] == self.key and set(found) == set(empty):
                return dict(found)
            problem = "is about other states"
        except (ValueError, KeyError, TypeError, OSError) as error:
            problem = f"cannot be read ({type(error).__name__})"
        if warn:
            log.warning("%s %s: computing the states again", self._sidecar, problem)
        return empty

    def missing(self, layers: Sequence[int], warn: bool) -> list[int]:
        """Layers that are absent or fail their digest, in ascending order."""
        known = self._read_sidecar(warn)["layers"]
        absent = []
        for layer in sorted(layers):
            entry, file = known.get(str(layer)), self._file(layer)
            if entry is not None and file.is_file() and sha256(file) == entry["sha256"]:
                continue
            if entry is not None and warn:
                log.warning("%s is missing or damaged: computing this layer again", file)
            absent.append(layer)
        return absent

    def read(self, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """States about their mean `[I, A, D]` (one layer stays memory-mapped), and the mean `[A, D]`."""
        from safetensors.torch import load_file

        found = [load_file(self._file(layer)) for layer in layers]
        states = [file["states"] for file in found]  # A of [I, D]
        mean = torch.stack([file.get("mean", torch.zeros(states[0].shape[1])) for file in found])  # [A, D]
        return (states[0][:, None] if len(states) == 1 else torch.stack(states, dim=1)), mean  # [I, A, D]

    def seconds(self, layers: Sequence[int]) -> float:
        """Seconds of the dearest pass that gave one of `layers`."""
        sidecar = self._read_sidecar(warn=False)
        passes = [sidecar["passes"][sidecar["layers"][str(layer)]["pass"]] for layer in layers]
        return float(max(one["seconds"] for one in passes))

    def write(self, layers: Sequence[int], values: Tensor, dtype: str, facts: dict[str, Any]) -> None:
        """Add `values` `[I, A, D]`, one file a layer, and then the sidecar that vouches for them."""
        from safetensors.torch import save

        sidecar = self._read_sidecar(warn=False)
        for layer, states in zip(layers, values.unbind(1), strict=True):  # A of [I, D]
            data = save(_stored(states.contiguous(), dtype))
            write_atomically(self._file(layer), data)
            sidecar["layers"][str(layer)] = {
                "sha256": hashlib.sha256(data).hexdigest(),
                "pass": len(sidecar["passes"]),
            }
        sidecar["passes"].append(facts)
        write_json(self._sidecar, sidecar)


def _compute(
    entry: _Entry, texts: Sequence[str], llm: LLM, layers: Sequence[int], dtype: str, device: torch.device
) -> None:
    """One forward pass over the distinct texts for all missing layers, in parts that survive a kill."""
    start = time.perf_counter()
    for stale in entry.folder.glob("*.tmp"):
        stale.unlink()
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    tokenizer = encoder.load_tokenizer(llm)
    tokens = encoder.tokenize(tokenizer, list(distinct), llm.max_tokens)
    budget = _token_budget(llm, device)
    batches = encoder.length_batches([len(row) for row in tokens], token_budget=budget)
    # The batches, hence the numbers, depend on the plan alone and never on where an earlier try was cut off.
    plan = _digest({"key": entry.key, "layers": list(layers), "budget": budget, "device": device.type})
    store = parts.Parts(entry.folder / f"parts-{plan}", plan, batches)
    values = torch.empty(len(distinct), len(layers), llm.width)  # [U, A, D]
    earlier = store.load_into(values)
    if store.done:
        log.warning("resuming: %d of %d texts were encoded before", store.texts_done, len(distinct))
    if len(store.done) < len(batches):
        model = encoder.load_model(llm).to(device)

        def encode(rows: Sequence[int]) -> Tensor:
            ids, mask = encoder.pad([tokens[row] for row in rows], tokenizer.pad_token_id, device)  # [M, T]
            return encoder.forward_layers(model, ids, mask, layers, entry.key["pooling"])  # [M, A, D]

        _fill(values, store, encode)
    rows = torch.tensor([distinct[text] for text in texts])  # [I]
    facts = _facts(time.perf_counter() - start + earlier, len(texts), len(distinct), tokens, device)
    entry.write(layers, values[rows], dtype, facts)  # [U, A, D] -> [I, A, D]
    for folder in entry.folder.glob("parts-*"):
        shutil.rmtree(folder)


def _stored(states: Tensor, dtype: str) -> dict[str, Tensor]:
    """What a layer's file holds: `[I, D]` as computed, or in 16 bits about its mean `[D]`."""
    if dtype == "float32":
        return {"states": states}
    mean = states.double().mean(0).float()  # [D]
    return {"states": (states - mean).to(DTYPES[dtype]), "mean": mean}


def _token_budget(llm: LLM, device: torch.device) -> int:
    """Tokens of a batch: the device's, or fewer where a large model's states would not fit."""
    fits = STATES_BYTES // ((llm.n_layers + 1) * llm.width * 4)
    return min(TOKEN_BUDGET.get(device.type, TOKEN_BUDGET["cpu"]), fits)


def _fill(values: Tensor, store: parts.Parts, encode: Callable[[Sequence[int]], Tensor]) -> None:
    """Encode the batches that are not done into their rows of `values` `[U, A, D]`, keeping parts."""
    with Progress("encoding item texts", len(values), store.texts_done) as progress, torch.inference_mode():
        for index, rows in enumerate(store.batches):
            if index in store.done:
                continue
            states = encode(rows)  # [M, A, D]
            if not states.isfinite().all():
                raise UserError(
                    "the language model gives states that are not finite; is the checkpoint whole?"
                )
            values[torch.tensor(rows)] = states.to("cpu", values.dtype)  # [M, A, D]
            store.add(index, values)
            progress.advance(len(rows))
    store.flush(values)


def _facts(
    seconds: float, items: int, distinct: int, tokens: Sequence[Sequence[int]], device: torch.device
) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "seconds": seconds,
        "items_per_second": items / seconds,
        "distinct_texts": distinct,
        "tokens": sum(len(row) for row in tokens),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
