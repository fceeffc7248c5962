"""What a method reads of the catalogue, on the device: indices, hidden states, tokens, or several of these.

What the language model makes of texts is computed once. Symbols of shape comments: `I` items of the
catalogue, `M` items of a step, `A` layers read, `T` tokens, `D` width of the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.files import cache_folder
from benchmark.llm.catalogue import LLM
from benchmark.llm.dense import behind_dense
from benchmark.llm.encoder import load_model, resolve_pooling
from benchmark.llm.states import States, load_states
from benchmark.llm.token_states import TokenStates, keep_token_states, load_token_states
from benchmark.llm.tokens import Tokens, TokenStatistics, load_tokens
from benchmark.measure import device_name
from benchmark.model.items import ItemInputs
from benchmark.model.parallel import any_process, is_main, log_main
from benchmark.run.precision import LOW, pick_precision
from benchmark.run.spec import ResolvedRun
from benchmark.train.control_ranks import training_data
from methods.base import (
    Items,
    Method,
    kinds,
    observes,
    precomputes,
    reads_llm,
    reads_states,
    state_covariance,
    state_statistics,
)
from methods.controls.transitions import transition_counts
from methods.errors import UserError

CHUNK = 8_192
"""Items of a chunk of states that a method observes or precomputes."""


@dataclass(frozen=True)
class Inputs:
    """The reader's data, and what the method may know about it."""

    items: ItemInputs
    context: dict[str, Any]
    """Fields of `methods.base.Context`."""
    prepare_seconds: float | None = None
    """Cold cost of what was computed once before training; None where nothing was."""
    states_on: str | None = None
    """The device that holds what was computed; None where nothing was."""
    texts: TokenStatistics | None = None
    """Whether the language model can tell the items' texts apart; None where it reads none."""
    catalogue: CatalogueStates | None = None
    """The states that the method reads or observes; None for neither."""
    lower: TokenStates | None = None
    """The states behind the layers that the method never trains; None where it runs all layers."""


@dataclass
class CatalogueStates:
    """Pooled states of all items, of which a method gets those of a step's items."""

    states: States
    device: torch.device
    _rows: Tensor | None = field(default=None, init=False)
    """`[I, A, D]` about `_offset`, or `[I, ...]` where the method precomputes, on the device."""
    _offset: Tensor | None = field(default=None, init=False)
    """`[A, D]`; None for zero."""

    def __iter__(self) -> Iterator[Tensor]:
        """Chunks of `[c, A, D]` fp32 on the CPU, in the order of the catalogue."""
        values, mean = self.states.values, self.states.mean
        return (values[begin : begin + CHUNK].float() + mean for begin in range(0, len(values), CHUNK))

    @torch.no_grad()
    def hand_to(self, method: Method) -> None:
        """Let `method` observe the states, and put what its steps read of them on the device.

        Raises `UserError` where it precomputes another number of items.
        """
        cls = type(method)
        if observes(cls):
            method.observe(self)
        if precomputes(cls):
            rows = torch.cat([_precomputed(method, chunk) for chunk in self])  # [I, ...]
            self._rows = rows.to(self.device)
        elif "states" in kinds(cls):
            self._rows = self.states.values.to(self.device)  # [I, A, D]
            self._offset = self.states.mean.to(self.device) if self.states.mean.any() else None  # [A, D]

    def read(self, items: Tensor) -> Tensor:
        """What the method reads of `items` `[M]`: -> `[M, A, D]` fp32, or `[M, ...]` where it precomputes."""
        assert self._rows is not None, "hand_to comes first"
        found = self._rows.index_select(0, items)  # [M, ...]
        return found if self._offset is None else found + self._offset


def _precomputed(method: Method, chunk: Tensor) -> Tensor:
    rows = method.precompute(chunk)  # [c, A, D] -> [c, ...]
    if len(rows) != len(chunk):
        name = type(method).__name__
        raise UserError(
            f"{name}.precompute gave {len(rows)} rows for {len(chunk)} items; it must give one each."
        )
    return rows


@dataclass(frozen=True)
class Sources:
    """Where what the language model computes once comes from."""

    states: Callable[..., States] = load_states
    token_states: Callable[..., TokenStates] = load_token_states


CACHE = Sources()
"""The cache, and what it lacks computed."""


def load_inputs(resolved: ResolvedRun, device: torch.device, sources: Sources = CACHE) -> Inputs:
    """The inputs of a run's method, on `device`."""
    cls, context = resolved.method, _cooccurrences(resolved)
    if resolved.llm is None or not reads_llm(cls):
        return Inputs(ItemInputs(lambda items, _: Items(ids=items)), context)
    llm = resolved.llm
    context |= {"llm_layers": llm.n_layers, "llm_width": llm.width}
    seconds: list[float] = []
    tokens, states, lower = None, None, None
    if reads_states(cls) or cls.layers(resolved.config, llm.n_layers):
        states = pooled_states(resolved, llm, device, sources)
        context |= _statistics(resolved, states)
        if resolved.reads_dense:
            context["llm_width"] = states.values.shape[-1]
        seconds.append(states.seconds)
    if "tokens" in kinds(cls):
        tokens = load_tokens(resolved.prepared.texts, llm)
        lower = _lower_states(resolved, llm, tokens, device, sources)
        low = LOW.get(pick_precision(resolved.settings, device), torch.float32)
        model = load_model(llm, device, low)
        context |= {"llm": model, "pooling": resolve_pooling(resolved.settings.pooling, llm)}
    if lower is not None:
        context["lower"] = lower.layer
        seconds.append(lower.seconds)
    _release(device)
    catalogue = CatalogueStates(states, device) if states is not None and reads_states(cls) else None
    if lower is not None:
        lower = lower.to(device)
    elif tokens is not None:
        tokens = tokens.to(device)
    texts = tokens.statistics if tokens else states.statistics if states else None
    check_texts(resolved, llm, texts)
    kept = lower.values.device if lower else device if catalogue else None
    return Inputs(
        _readers(resolved, tokens, lower, catalogue),
        context,
        prepare_seconds=sum(seconds) if seconds else None,
        states_on=device_name(kept) if kept else None,
        texts=texts,
        catalogue=catalogue,
        lower=lower,
    )


def _readers(
    resolved: ResolvedRun, tokens: Tokens | None, lower: TokenStates | None, catalogue: CatalogueStates | None
) -> ItemInputs:
    """What the method reads of a step's items: each kind that it names, as `Items` holds it."""
    kinds_read, last = kinds(resolved.cls), len(resolved.prepared.texts) - 1

    def read(items: Tensor, width: int) -> Items:
        found: dict[str, Tensor] = {}
        if lower is not None:
            found["hidden"], found["attention_mask"] = lower.hidden_batch(items, width)  # [M, T, D], [M, T]
        elif tokens is not None:
            found["input_ids"], found["attention_mask"] = tokens.batch(items, width)  # both [M, T]
            if len(kinds_read) > 1:
                # the empty text of `encode = occurrences` is no item; SASRec never looks at its embedding
                items = items.clamp(max=last)
        if catalogue is not None and "states" in kinds_read:
            found["states"] = catalogue.read(items)  # [M, A, D], or [M, ...]
        if "ids" in kinds_read:
            found["ids"] = items  # [M]
        return Items(**found)

    return ItemInputs(read, None if tokens is None else tokens.lengths)


def check_texts(resolved: ResolvedRun, llm: LLM, statistics: TokenStatistics | None) -> None:
    """Raise `UserError` where items have the same tokens and no ids, so that none differs from another."""
    name, items = resolved.prepared.name, len(resolved.prepared.texts)
    if statistics is None or statistics.token_sequences != 1 or items == 1 or distinguishes(resolved):
        return
    raise UserError(
        f"all {items} items of '{name}' have the same tokens for language model '{llm.name}' "
        f"({statistics.unknown_tokens:.1%} of them unknown to it), so that no method that reads texts "
        "alone can tell the items apart; give them other texts, or take a language model that knows "
        "their script, a larger max_tokens, or ids=add."
    )


def distinguishes(resolved: ResolvedRun) -> bool:
    """Whether items with the same text have embeddings of their own."""
    return "ids" in kinds(resolved.cls) or resolved.settings.ids == "add"


def pooled_states(resolved: ResolvedRun, llm: LLM, device: torch.device, sources: Sources = CACHE) -> States:
    """The hidden states that a run's method or control reads, on the CPU; behind the dense layers of the
    language model where these apply."""
    settings, layers = resolved.settings, resolved.cls.layers(resolved.config, llm.n_layers)
    texts = resolved.prepared.texts
    pooling, dtype = settings.pooling, settings.states_dtype
    states = sources.states(texts, llm, layers, pooling, dtype, cache_folder(), device)
    _release(device)
    return behind_dense(states, llm) if resolved.reads_dense else states


def _lower_states(
    resolved: ResolvedRun, llm: LLM, tokens: Tokens, device: torch.device, sources: Sources
) -> TokenStates | None:
    """States behind the layers that the method never trains, where they are to be kept."""
    settings, layer = resolved.settings, resolved.method.frozen_layers(resolved.config, llm.n_layers)
    # `occurrences` is what published code does, which runs every layer every time
    if not layer or settings.encode == "occurrences":
        return None
    choice, limit, dtype = settings.lower_states, settings.lower_states_gib, settings.states_dtype
    keep, why = keep_token_states(choice, limit, tokens, llm, layer, dtype, cache_folder())
    log_main(why)
    # free space changes as one process writes: the main one decides for all
    if not any_process(keep and is_main(), device):
        return None
    return sources.token_states(tokens, llm, layer, dtype, cache_folder(), device)


def _statistics(resolved: ResolvedRun, states: States) -> dict[str, Any]:
    mean, std = state_statistics(states.values)
    found = {"state_mean": mean + states.mean, "state_std": std}
    if resolved.method.reads_covariance(resolved.config):
        found["state_covariance"] = state_covariance(states.values, mean)
    return found


def _cooccurrences(resolved: ResolvedRun) -> dict[str, Any]:
    """`Context.cooccurrences`, where the method declares that it uses them."""
    if not resolved.method.reads_cooccurrences:
        return {}
    prepared = resolved.prepared
    offsets, end = prepared.offsets.astype(np.int64), prepared.train_end.astype(np.int64)
    data = training_data(prepared.items, offsets, end, len(prepared.texts))
    counts = transition_counts(data, window=1).tocoo()
    index = torch.from_numpy(np.stack([counts.row, counts.col]).astype(np.int64))  # [2, n]
    values = torch.from_numpy(counts.data.astype(np.float32))  # [n]
    return {
        "cooccurrences": torch.sparse_coo_tensor(
            index, values, counts.shape, check_invariants=True
        ).coalesce()
    }  # [I, I]


def _release(device: torch.device) -> None:
    """The language model that computed states is gone; its memory must not count as training's."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
