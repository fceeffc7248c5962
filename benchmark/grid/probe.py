"""Short measurements in fresh processes, to estimate what a grid will cost. Nothing of them is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmark.files import cache_folder
from benchmark.grid.progress import Range
from benchmark.llm import encoder, states
from benchmark.llm.cache import DTYPES
from benchmark.llm.catalogue import LLM
from benchmark.llm.server_states import seconds_by_server
from benchmark.llm.states import States, token_budget
from benchmark.llm.token_states import (
    TokenStates,
    keep_token_states,
    token_entry_of,
    token_states_bytes,
)
from benchmark.llm.tokens import Tokens, load_tokens
from benchmark.measure import pick_device
from benchmark.run.inputs import Sources
from benchmark.run.spec import ResolvedRun, RunSpec, resolve_run
from benchmark.speed.measure import Amounts
from benchmark.speed.record import Variant
from benchmark.speed.run import in_fresh_process, time_variant
from methods.base import kinds

STEPS = Amounts(steps=6, warm_up=0, passes=1, evaluation_warm_up=0, limit=10.0, detail=False)
"""The first step is a warm-up where there is time for another."""
SAMPLE = 256
"""Texts that are encoded to learn what all of them cost."""


def random_states(
    texts: Sequence[str], llm: LLM, layers: Sequence[int], pooling: str, dtype: str, *_: Any
) -> States:
    """As `states.load_states`, but numbers of the same shape that cost nothing."""
    values = torch.randn(len(texts), len(layers), llm.width).to(DTYPES[dtype])
    return States(values, torch.zeros(len(layers), llm.width), tuple(layers), "random", 0.0, hit=True)


def random_token_states(tokens: Tokens, llm: LLM, layer: int, dtype: str, *_: Any) -> TokenStates:
    """As `load_token_states`; all tokens have one state, so that no memory is taken either."""
    values = torch.randn(1, llm.width).to(DTYPES[dtype]).expand(len(tokens.ids), -1)
    return TokenStates(tokens, values, torch.zeros(2, llm.width), layer, "random", 0.0, hit=True)


def probe_training(resolved: ResolvedRun) -> tuple[Variant, float]:
    """A few steps and one validation pass on states that are made up; and the seconds of all else."""
    begin = time.monotonic()
    variant = time_variant(resolved, "", STEPS, Sources(random_states, random_token_states))
    taken = sum(variant.evaluation.seconds) + sum(variant.step.seconds)
    return variant, max(0.0, time.monotonic() - begin - taken)


@dataclass(frozen=True)
class StoredStates:
    """Hidden states that are kept on disk."""

    name: str
    cached: bool
    """Whether they are in the cache already."""
    size: int
    """Bytes on disk."""
    seconds: Range = (0.0, 0.0)
    """Time to compute them; zero where they are cached."""


def probe_states(runs: Sequence[ResolvedRun]) -> list[StoredStates]:
    """What `runs`, all of one dataset and language model, keep on disk, measured in a fresh process."""
    return in_fresh_process(states_of, [run.spec for run in runs])


def states_of(specs: Sequence[RunSpec]) -> list[StoredStates]:
    """The same in this process."""
    readers = [reader for run in map(resolve_run, specs) for reader in run.readers]
    if not readers:
        return []
    llm, texts, cache = readers[0].llm, readers[0].prepared.texts, cache_folder()
    assert llm is not None
    tokens = None if llm.server else load_tokens(texts, llm)
    pooled: dict[tuple[str, str], set[int]] = {}
    lower: set[tuple[int, str]] = set()
    for run in readers:
        settings, dtype = run.settings, run.settings.states_dtype
        layers = run.cls.layers(run.config, llm.n_layers)
        pooled.setdefault((settings.pooling, dtype), set()).update(layers)
        if tokens and "tokens" in kinds(run.cls) and not run.control and settings.encode != "occurrences":
            layer = run.method.frozen_layers(run.config, llm.n_layers)
            choice, limit = settings.lower_states, settings.lower_states_gib
            if layer and keep_token_states(choice, limit, tokens, llm, layer, dtype, cache)[0]:
                lower.add((layer, dtype))
    stored = []  # each with the share of the model's depth that computing it runs
    for (pooling, number), needed in pooled.items():
        entry = states.entry_of(texts, llm, pooling, number, cache)
        there = sorted(layer for layer in needed if entry.holds(layer))
        absent = sorted(needed.difference(there))
        computed = states.stored_layers(entry, absent, len(texts), llm) if absent else []
        for cached, chosen in ((True, there), (False, computed)):
            if chosen:
                size = len(texts) * len(chosen) * llm.width * DTYPES[number].itemsize
                name = f"hidden states of {llm.name}, layers {chosen}"
                stored.append((StoredStates(name, cached, size), 1.0))
    for layer, number in sorted(lower):
        assert tokens is not None
        cached = token_entry_of(tokens, llm, number, cache).holds(layer)
        name = f"states of all tokens of {llm.name} behind layer {layer}"
        size = token_states_bytes(tokens, llm, number)
        stored.append((StoredStates(name, cached, size), layer / llm.n_layers))
    if all(part.cached for part, _ in stored):
        return [part for part, _ in stored]
    if llm.server is not None:
        low, high, load = *seconds_by_server(texts, llm.server), 0.0
    else:
        assert tokens is not None
        low, high, load = _whole_pass(llm, tokens)
    return [
        part if part.cached else replace(part, seconds=(load + low * depth, load + high * depth))
        for part, depth in stored
    ]


def _whole_pass(llm: LLM, tokens: Tokens) -> tuple[float, float, float]:
    """Seconds of a pass of all distinct texts through all layers, at least and at most, and of loading."""
    device, begin = pick_device(), time.perf_counter()
    model = encoder.load_frozen(llm, device)
    load = time.perf_counter() - begin
    items, _ = tokens.texts(with_empty=True)
    lengths, budget = tokens.lengths[items], token_budget(llm, device)
    chosen = items[:: max(1, len(items) // SAMPLE)]
    batches = encoder.length_batches(tokens.lengths[chosen].tolist(), budget)
    rates = []
    with torch.inference_mode():
        for number, batch in enumerate([batches[0], *batches]):
            of = chosen[batch]
            ids, mask = tokens.batch(torch.from_numpy(of), int(tokens.lengths[of[0]]))
            ids, mask = ids.to(device), mask.to(device)
            begin = time.perf_counter()
            states.hidden_states(model, ids, mask)[-1].float().cpu()
            if number:  # the first time is the warm-up
                rates.append((time.perf_counter() - begin) / ids.numel())
    batches = encoder.length_batches(lengths.tolist(), budget)
    padded = sum(len(batch) * int(lengths[batch[0]]) for batch in batches)
    return min(rates) * padded, max(rates) * padded, load
