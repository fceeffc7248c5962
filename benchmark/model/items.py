"""From item indices to item embeddings: each item of a step once, texts in chunks of near-equal length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmark.config import Settings
from benchmark.data.sequences import Ints
from benchmark.llm.encoder import length_batches
from benchmark.measure import out_of_memory
from benchmark.model.parallel import ShortOfMemoryError, any_process, world_size
from methods.base import Items, Method

CHUNK_TOKENS = {"cpu": 4_096, "cuda": 65_536}
"""Tokens of a chunk where `chunk_tokens` is 0: enough to fill the device."""


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
    loss and gradients are those of `encode = unique`.
    """

    def __init__(self, inputs: ItemInputs, settings: Settings, device: torch.device) -> None:
        self.inputs, self.mode, self.device = inputs, settings.encode, device
        self.chunk_tokens = settings.chunk_tokens or CHUNK_TOKENS.get(device.type, CHUNK_TOKENS["cpu"])
        self.halvings = 0
        """Times that a chunk did not fit into memory and was halved."""
        self.encoded = 0
        """Items encoded with gradients so far, by this process."""
        self.local_part = False
        """Whether the backward pass has come to the chunks, where no process waits for another."""

    @property
    def shrinks(self) -> bool:
        """Whether smaller chunks take less memory: always without gradients, else if graphs are not kept."""
        return self.inputs.lengths is not None and (self.mode == "cached" or not torch.is_grad_enabled())

    def halve(self) -> bool:
        """Make chunks smaller; False where one text is already more than a chunk holds."""
        assert self.inputs.lengths is not None
        longest = int(self.inputs.lengths.max())
        if self.chunk_tokens <= longest:
            return False
        self.chunk_tokens, self.halvings = max(self.chunk_tokens // 2, longest), self.halvings + 1
        return True

    def __call__(self, method: Method, items: Ints) -> Tensor:
        """Embeddings in fp32: `[m]` -> `[m, d]`. Where memory is short in one process, it is in all."""
        if torch.is_grad_enabled():
            self.encoded += len(items)
        lengths = self.inputs.lengths
        if lengths is None:
            return method(self.inputs.read(self._on_device(items), 0)).float()  # type: ignore[no-any-return]
        self.local_part, short = False, ""
        try:
            embeddings = self._in_chunks(method, items, lengths[items].tolist())  # [m, d]
        except Exception as error:
            if not (self.shrinks and out_of_memory(error)):
                raise
            short = str(error) or "out of memory"  # the error itself would keep the failed graph alive
        if self.shrinks and any_process(bool(short), self.device):
            raise ShortOfMemoryError(short or "another process ran out of memory")
        if world_size() > 1 and embeddings.requires_grad:
            embeddings.register_hook(self._enter_local_part)  # type: ignore[no-untyped-call]
        return embeddings

    def _in_chunks(self, method: Method, items: Ints, lengths: Sequence[int]) -> Tensor:
        training = torch.is_grad_enabled()
        if training and self.mode == "occurrences":
            chunks = [list(range(len(items)))]  # one piece, padded to its longest text
        else:
            chunks = length_batches(lengths, token_budget=self.chunk_tokens)
        # a single chunk needs no second pass: its graph is all that there would be at a time
        replayed = training and self.mode == "cached" and len(chunks) > 1
        parts = []
        for rows in chunks:

            def encode(part: Tensor, width: int = max(lengths[row] for row in rows)) -> Tensor:
                return method(self.inputs.read(part, width)).float()  # type: ignore[no-any-return]

            part = self._on_device(items[rows])  # [c]
            parts.append(checkpoint(encode, part, use_reentrant=False) if replayed else encode(part))
        back = np.argsort(np.concatenate(chunks))  # [m], where each item's embedding is
        return torch.cat(parts)[self._on_device(back)]  # [m, d]

    def _on_device(self, index: Ints) -> Tensor:
        return torch.from_numpy(index).to(self.device, non_blocking=True)

    def _enter_local_part(self, _: Tensor) -> None:
        self.local_part = True
