"""Communication between processes that train together: embeddings, gradients, and whether one failed.

Gradients are averaged once a step, after the last backward pass, and not during it as DDP does. Everything
between the gathering of embeddings and the average is then local to a process, so that all processes can
repeat a step whose chunk of texts did not fit into the memory of one. A frozen language model has no
gradients and is not sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ShortOfMemoryError(torch.OutOfMemoryError):
    """A chunk of item texts did not fit into the memory of a process; every process raises it."""


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that logs, writes files and decides for all."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank())


def log_main(line: str) -> None:
    """Print a line on stderr in the main process; stdout is for the record's path."""
    if is_main():
        print(line, file=sys.stderr, flush=True)


def gathered(x: Tensor) -> list[Tensor]:
    """Every process's `x`, in the order of ranks; gradients flow back to where each came from."""
    from torch.distributed.nn.functional import all_gather

    return list(all_gather(x))  # type: ignore[no-untyped-call]


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true in any process. All processes wait for each other and for their devices."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all processes."""
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
    """Broadcast the main process's values; they differ only if the initial values do not depend on the seed
    alone."""
    if world_size() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)
