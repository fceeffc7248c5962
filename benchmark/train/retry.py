"""Repeat work with smaller chunks of item texts where memory is short."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from benchmark.measure import out_of_memory
from benchmark.model.items import ItemEncoder
from benchmark.model.parallel import ShortOfMemoryError, any_process, world_size

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class MemoryRetry:
    """Runs an action, and again with smaller chunks and the same random numbers after `ShortOfMemoryError`.

    All processes learn of a shortage before any of them raises it: a process that tried again alone would
    wait for the others for ever.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        accelerator: Accelerator,
        zero_grad: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        """`zero_grad` discards the gradients of a failed attempt."""
        self.encoder, self.accelerator, self.zero_grad, self.log = encoder, accelerator, zero_grad, log
        self.device: torch.device = accelerator.device

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`. Raises the error of its last attempt where no smaller chunk is left."""
        if self.encoder.inputs.lengths is None:  # no texts, no chunks: no random state to keep either
            return action()
        while True:
            random_state = _random_state(self.device)
            try:
                return action()
            except ShortOfMemoryError:
                if not self.encoder.halve():
                    raise
            # outside the handler, where the error no longer holds on to tensors
            self.zero_grad()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            _set_random_state(random_state, self.device)
            self.log(f"out of memory: going on with chunks of {self.encoder.chunk_tokens} tokens")

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of `objective` to the parameters.

        Raises `ShortOfMemoryError` in every process where a chunk did not fit into the memory of one.
        """
        encoder, shortage = self.encoder, ""
        try:
            self.accelerator.backward(objective)
        except Exception as error:
            # before the chunks, other processes wait in an exchange: they must be ended
            all_can_learn = world_size() == 1 or encoder.local_part
            if not (encoder.shrinks and out_of_memory(error) and all_can_learn):
                raise
            shortage = str(error) or "out of memory"
        if encoder.shrinks and any_process(bool(shortage), self.device):
            raise ShortOfMemoryError(shortage or "another process ran out of memory")


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
