"""Short measurements in fresh processes, to estimate what a grid will cost. Nothing of them is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark.data.paths import cache_folder
from benchmark.llm import encoder, states, token_states
from benchmark.llm.cache import DTYPES
from benchmark.llm.catalogue import LLM
from benchmark.llm.states import States, token_budget
from benchmark.llm.token_states import TokenStates, keep_token_states, token_states_bytes
from benchmark.llm.tokens import Tokens, load_tokens
from benchmark.measure import pick_device
from benchmark.run.inputs import Sources
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.speed.measure import Amounts
from benchmark.speed.record import Variant
from benchmark.speed.run import in_fresh_process, time_variant

STEPS = Amounts(steps=6, warm_up=0, passes=1, evaluation_warm_up=0, limit=10.0, detail=False)
"""The first step is a warm-up where there is time for another."""
SAMPLE = 256
"""Texts that are encoded to learn what all of them cost."""
Range = tuple[float, float]


def random_states(
    texts: Sequence[str], llm: LLM, layers: Sequence[int], pooling: str, dtype: str, *_: Any
) -> States:
    """As `states.load_states`, but numbers of the same shape that cost nothing."""
    values = torch.randn(len(texts), len(layers), llm.width).to(DTYPES[dtype])
    return States(values, torch.zeros(len(layers), llm.width), tuple(layers), "random", 0.0, hit=True)


def random_token_states(tokens: Tokens, llm: LLM, layer: int, dtype: str, *_: Any) -> TokenStates:
    """As `token_states.load_token_states`; all tokens have one state, so that no memory is taken either."""
    values = torch.randn(1, llm.width).to(DTYPES[dtype]).expand(len(tokens.ids), -1)
    return TokenStates(tokens, values, torch.zeros(2, llm.width), layer, "random", 0.0, hit=True)


def probe_training(resolved: ResolvedRun) -> tuple[Variant, float]:
    """A few steps and one validation pass on states that are made up; and the seconds of all else."""
    begin = time.monotonic()
    variant = time_variant(resolved, "", STEPS, Sources(random_states, random_token_states))
    taken = sum(variant.evaluation.seconds) + sum(variant.step.seconds)
    return variant, max(0.0, time.monotonic() - begin - taken)


@dataclass(frozen=True)
class Stored:
    """Hidden states that are kept on disk."""

    what: str
    there: bool
    """Whether they are there already."""
    size: int
    """Bytes on disk."""
    seconds: Range = (0.0, 0.0)
    """What computing them takes; nothing where they are there."""


def probe_states(cells: Sequence[RunSpec]) -> list[Stored]:
    """What `cells`, all of one dataset and language model, keep on disk, found in a fresh process."""
    return in_fresh_process(stored_by, list(cells))


def stored_by(cells: Sequence[RunSpec]) -> list[Stored]:
    """The same in this process."""
    readers = [resolved for cell in cells if (resolved := resolve_run(cell)).llm is not None]
    if not readers:
        return []
    llm, texts = readers[0].llm, readers[0].prepared.texts
    assert llm is not None
    cache, tokens = cache_folder(), load_tokens(texts, llm)
    found = [*_pooled(readers, llm, texts, cache), *_lower(readers, llm, tokens, cache)]
    if all(one.there for one, _ in found):
        return [one for one, _ in found]
    low, high, load = _whole_pass(llm, tokens)
    return [
        one if one.there else Stored(one.what, False, one.size, (load + low * depth, load + high * depth))
        for one, depth in found
    ]


def _pooled(
    readers: Sequence[ResolvedRun], llm: LLM, texts: Sequence[str], cache: Path
) -> list[tuple[Stored, float]]:
    """One vector an item and layer; the share of the model's depth that computing them runs."""
    wanted: dict[tuple[str, str], set[int]] = {}
    for one in readers:
        some = wanted.setdefault((one.settings.pooling, one.settings.states_dtype), set())
        some.update(one.cls.layers(one.config, llm.n_layers))
    found = []
    for (pooling, dtype), layers in wanted.items():
        entry = states.entry_of(texts, llm, pooling, dtype, cache)
        for there in (True, False):
            if chosen := sorted(layer for layer in layers if entry.holds(layer) is there):
                size = len(texts) * len(chosen) * llm.width * DTYPES[dtype].itemsize
                what = f"hidden states of {llm.name}, layers {chosen}"
                found.append((Stored(what, there, size), 1.0))
    return found


def _lower(
    readers: Sequence[ResolvedRun], llm: LLM, tokens: Tokens, cache: Path
) -> list[tuple[Stored, float]]:
    """All tokens behind layers that are never trained, where they are to be kept."""
    found: dict[tuple[int, str], tuple[Stored, float]] = {}
    for one in readers:
        layer, settings = one.cls.frozen_layers(one.config, llm.n_layers), one.settings
        if one.cls.reads != "tokens" or not layer or settings.encode == "occurrences":
            continue
        choice, limit, dtype = settings.lower_states, settings.lower_states_gib, settings.states_dtype
        keep, _ = keep_token_states(choice, limit, tokens, llm, layer, dtype, cache)
        if keep:
            there = token_states.entry_of(tokens, llm, dtype, cache).holds(layer)
            what = f"states of all tokens of {llm.name} behind layer {layer}"
            size = token_states_bytes(tokens, llm, dtype)
            found[layer, dtype] = Stored(what, there, size), layer / llm.n_layers
    return list(found.values())


def _whole_pass(llm: LLM, tokens: Tokens) -> tuple[float, float, float]:
    """Seconds of a pass of all distinct texts through all layers, at least and at most, and of loading."""
    device, begin = pick_device(), time.perf_counter()
    model = encoder.load_model(llm).to(device)
    load = time.perf_counter() - begin
    budget, lengths = token_budget(llm, device), tokens.distinct.tolist()
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    chosen = range(0, len(lengths), max(1, len(lengths) // SAMPLE))
    rows = [tokens.ids[starts[row] : starts[row] + lengths[row]].tolist() for row in chosen]
    batches = encoder.length_batches([len(row) for row in rows], token_budget=budget)
    rates = []
    with torch.inference_mode():
        for number, batch in enumerate([batches[0], *batches]):
            ids, mask = encoder.pad([rows[row] for row in batch], tokens.pad_id, device)
            begin = time.perf_counter()
            encoder.forward_layer(model, ids, mask, llm.n_layers).float().cpu()
            if number:  # the first time is the warm-up
                rates.append((time.perf_counter() - begin) / ids.numel())
    padded = sum(
        len(batch) * max(lengths[row] for row in batch)
        for batch in encoder.length_batches(lengths, token_budget=budget)
    )
    return min(rates) * padded, max(rates) * padded, load
