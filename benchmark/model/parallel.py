"""What processes that train together exchange: embeddings, gradients and whether one of them is in trouble.

Gradients are averaged once a step, after the last backward pass, and not while it runs as DDP does it: all
that happens between the gathering of embeddings and the average is then local to a process, so a step whose
chunk of texts does not fit into one process's memory can be tried again by all. A frozen language model has
no gradients and is not sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ShortOfMemoryError(torch.OutOfMemoryError):
    """A chunk of item texts did not fit into some process's memory, and every process has been told."""


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process speaks and decides for all."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank())


def say(line: str) -> None:
    """Progress goes to stderr, once: stdout is for the record's path."""
    if is_main():
        print(line, file=sys.stderr, flush=True)


def gathered(x: Tensor) -> list[Tensor]:
    """Every process's `x`, in the order of ranks; gradients flow back to where each came from."""
    from torch.distributed.nn.functional import all_gather

    return list(all_gather(x))  # type: ignore[no-untyped-call]


def any_process(here: bool, device: torch.device) -> bool:
    """Whether `here` is true in any process. With several, all wait for each other and for their devices."""
    if world_size() == 1:
        return here
    flag = torch.tensor(float(here), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def start_alike(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the main one's values. They are the same already where the seed decides alone."""
    if world_size() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)
