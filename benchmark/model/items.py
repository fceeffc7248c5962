"""What a step works on, and embeddings of its items: each item once, texts in chunks of near-equal length."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmark.config import Settings
from benchmark.llm.encoder import FrozenMatrices
from benchmark.measure import out_of_memory
from benchmark.model.chunks import (
    PROBE_TOKENS,
    GraphBytes,
    Ints,
    chunk_cost,
    length_chunks,
    most_tokens,
    room,
)
from benchmark.model.parallel import ShortOfMemoryError, any_process, world_size
from methods.base import Items, Method


@dataclass(frozen=True)
class Share:
    """Encode these items and gather them into the step's table: `table = gather(encode(items))[:rows]`."""

    items: Ints
    """`[m]` item indices that this process encodes (the last may repeat, so that all encode equally many).
    On the host, where readers of tokens plan their chunks."""
    index: Tensor
    """The same as a tensor, on any device."""
    rows: int
    """M, rows of the gathered table that count."""


@dataclass(frozen=True)
class Batch:
    """A batch's tensors, or those of all batches of a step.

    `M` encoded items, `N` bins of `S` slots, `P` local predictions, `C` candidates. Items are named by their
    row in the step's table of embeddings.
    """

    share: Share
    inputs: Tensor
    """`[N, S]` table row of each input; padding points at row 0 and is masked by its segment."""
    positions: Tensor
    """`[N, S]`"""
    segments: Tensor
    """`[N, S]` row number, -1 for padding."""
    slots: Tensor
    """`[P]` flat slot of each prediction."""
    targets: Tensor
    """`[P]` item index of the next item."""
    target_rows: Tensor
    """`[P]` its row in the table."""
    users: Tensor
    """`[P]` user of each prediction."""
    candidates: Tensor
    """`[C]` item index of each candidate."""
    candidate_rows: Tensor
    """`[C]` its row in the table."""
    own: Tensor | None
    """`[P]` column of each prediction's target among the candidates, -1 where they lack it; None where the
    candidates are targets (`candidates = batch`)."""
    candidate_users: Tensor | None
    """`[C]` the user whose target it is (`candidates = batch`), else None."""
    group: Tensor | None
    """`[P]` the batch that a prediction is of; None for one batch, or where all have the same candidates."""
    candidate_group: Tensor | None
    """`[C]` the batch that a candidate is of: predictions of another do not see it."""
    weight: Tensor
    """`[P]` fp32, what a prediction's loss counts in the objective: the mean over the predictions of a global
    batch, and over batches, times the number of processes, as gradients are averaged over these."""
    predictions: int
    """Predictions of the global batches."""
    members: int
    """Batches in it."""

    def to(self, device: torch.device) -> Batch:
        """Move every tensor to `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class ItemInputs:
    """What the method reads of the catalogue."""

    read: Callable[[Tensor, int], Items]
    """Item indices `[m]`, and the tokens T that they are padded to (readers of tokens) -> their inputs."""
    lengths: Ints | None = None
    """`[I + 1]` tokens of each text, the empty one last; None where the method reads no tokens."""

    @property
    def padding(self) -> int:
        """The input that an empty slot is encoded as (`Sequences.padding`)."""
        return 0 if self.lengths is None else len(self.lengths) - 1


class ItemEncoder:
    """Runs a method over the items of a step.

    Where the method reads tokens, `encode = cached` is gradient caching (Gao et al. 2021, arXiv 2101.06983):
    a chunk is embedded without a graph, and when the backward pass reaches its embeddings it is run again
    with one, under the same random numbers. So one chunk's graph sets the memory, whatever the batch, and
    loss and gradients are those of `encode = unique`. If all graphs of a step fit into memory, they
    are kept and nothing is run again.
    """

    def __init__(
        self,
        inputs: ItemInputs,
        settings: Settings,
        device: torch.device,
        low: torch.dtype | None = None,
        frozen: FrozenMatrices | None = None,
    ) -> None:
        self.inputs, self.mode, self.device = inputs, settings.encode, device
        self.low = low
        """16-bit precision that readers of tokens train in; None is fp32."""
        self.frozen = frozen
        """The matrices of the language model that are held in it."""
        self.chunk_tokens = settings.chunk_tokens or most_tokens(device)
        self.kept_tokens = 0
        """Tokens of a step up to which its graphs are kept; from what memory is free at the first step."""
        self.halvings = 0
        """Times that a chunk did not fit into memory and was halved."""
        self.encoded = 0
        """Items encoded with gradients so far, by this process."""
        self.encoded_again = 0
        """Those of them that were run again for their gradients."""
        self.local_part = False
        """Whether the backward pass has come to the chunks, where no process waits for another."""
        self._training = False
        """Whether the last call was to be differentiated."""
        # a chunk size that the user sets is not changed
        self._measured = self.mode != "cached" or settings.chunk_tokens > 0

    @property
    def shrinks(self) -> bool:
        """Whether smaller chunks need less memory: always without gradients, else if graphs may go."""
        return self.inputs.lengths is not None and (self.mode == "cached" or not torch.is_grad_enabled())

    def halve(self) -> bool:
        """Keep no more graphs than those of a chunk, or else make chunks smaller; False where one text is
        already more than a chunk holds."""
        assert self.inputs.lengths is not None
        if self._training and self.kept_tokens:
            self.kept_tokens = 0
            return True
        longest = int(self.inputs.lengths.max())
        if self.chunk_tokens <= longest:
            return False
        self.chunk_tokens, self.halvings = max(self.chunk_tokens // 2, longest), self.halvings + 1
        return True

    @contextlib.contextmanager
    def full_precision(self) -> Iterator[None]:
        """Encode in fp32 for a while: evaluation has one precision for all methods, or figures would differ
        by what a method reads (states are computed and read in fp32)."""
        low, self.low = self.low, None
        try:
            with self.frozen.full_precision() if self.frozen else contextlib.nullcontext():
                yield
        finally:
            self.low = low

    def __call__(self, method: Method, share: Share) -> Tensor:
        """Embeddings in fp32: `[m]` -> `[m, d]`.

        Raises `ShortOfMemoryError` in every process where a chunk does not fit into the memory of one.
        """
        items = share.items
        self._training = torch.is_grad_enabled()
        if self._training:
            self.encoded += len(items)
        if self.inputs.lengths is None:
            return method(self.inputs.read(self.on_device(share.index), 0)).float()  # type: ignore[no-any-return]
        lengths = self.inputs.lengths[items]  # [m]
        self.local_part, shortage = False, ""
        with torch.autocast(self.device.type, self.low) if self.low else contextlib.nullcontext():
            if self._training and not self._measured:
                self._measure(method, items, lengths)
            try:
                embeddings = self._in_chunks(method, items, lengths)  # [m, d]
            except Exception as error:
                if not (self.shrinks and out_of_memory(error)):
                    raise
                shortage = str(error) or "out of memory"  # the error itself would keep the failed graph alive
        if self.shrinks and any_process(bool(shortage), self.device):
            raise ShortOfMemoryError(shortage or "another process ran out of memory")
        if world_size() > 1 and embeddings.requires_grad:
            embeddings.register_hook(self._enter_local_part)  # type: ignore[no-untyped-call]
        return embeddings

    def _in_chunks(self, method: Method, items: Ints, lengths: Ints) -> Tensor:
        if self._training and self.mode == "occurrences":
            chunks = [np.arange(len(items))]  # one piece, padded to its longest text
        else:
            chunks = length_chunks(lengths, self.chunk_tokens, chunk_cost(self.device))
        widths = [int(lengths[rows].max()) for rows in chunks]
        tokens = sum(len(rows) * width for rows, width in zip(chunks, widths, strict=True))
        replayed = (
            self._training and self.mode == "cached" and tokens > max(self.chunk_tokens, self.kept_tokens)
        )
        self.encoded_again += replayed * len(items)
        order = np.concatenate(chunks)  # [m]
        back = np.empty_like(order)  # [m], where each item's embedding is
        back[order] = np.arange(len(order))
        index = self.on_device(torch.from_numpy(items[order]))  # [m]
        parts = torch.split(index, [len(rows) for rows in chunks])  # [m] -> [c] each
        embedded = []
        for part, width in zip(parts, widths, strict=True):

            def encode(part: Tensor, width: int = width) -> Tensor:
                return method(self.inputs.read(part, width)).float()  # type: ignore[no-any-return]

            embedded.append(checkpoint(encode, part, use_reentrant=False) if replayed else encode(part))
        return torch.cat(embedded)[self.on_device(torch.from_numpy(back))]  # [m, d]

    def _measure(self, method: Method, items: Ints, lengths: Ints) -> None:
        """Choose the size of chunks and what a step may keep, from what the graph of the longest texts takes
        and the memory that is free. No random number is used up: what follows is as if nothing had been."""
        self._measured = True
        rows = length_chunks(lengths, min(PROBE_TOKENS, self.chunk_tokens), PROBE_TOKENS)[0]  # [c]
        width, graph = int(lengths[rows].max()), GraphBytes(method)
        taken = math.inf
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), graph:
                method(self.inputs.read(self.on_device(torch.from_numpy(items[rows])), width))
            taken = graph.total / (len(rows) * width)
        except Exception as error:
            if not out_of_memory(error):
                raise
        chunk, self.kept_tokens = room(taken, self.device)
        assert self.inputs.lengths is not None
        self.chunk_tokens = max(min(self.chunk_tokens, chunk), int(self.inputs.lengths.max()))

    def on_device(self, index: Tensor) -> Tensor:
        """`index` where the inputs are, without a wait."""
        if index.device.type == self.device.type:
            return index
        return index.pin_memory().to(self.device, non_blocking=True)

    def _enter_local_part(self, _: Tensor) -> None:
        self.local_part = True
