"""Split the texts of a step into chunks, and estimate the tokens that fit into memory.

Symbols in shape comments: `m` texts, `K` distinct lengths.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmark.model.parallel import world_size
from benchmark.process.memory import available_memory

Ints = NDArray[np.int64]

MOST_TOKENS = {"cpu": 4_096, "cuda": 65_536}
"""Tokens of a chunk, padding included, beyond which a device gains nothing."""
CHUNK_COST = {"cpu": 64, "cuda": 8_192}
"""Fixed cost of a chunk, in tokens: the time that a device idles or repeats for each."""
PROBE_TOKENS = 4_096
"""Most tokens of the chunk on which memory is measured."""
CHUNK_SHARE, STEP_SHARE = 0.25, 0.5
"""Shares of a GPU's free memory that the graphs of one chunk, and of all chunks of a step, may take. The rest
is for temporary tensors, SASRec, the loss and gradients."""
HOST_SHARE = 0.5
"""Factor on these shares for host memory: other programs use it, and a process that exceeds it is killed."""


def length_chunks(lengths: Ints, budget: int, cost: int) -> list[Ints]:
    """Indices of texts with `lengths` `[m]` in chunks of near-equal length, the longest first.

    A chunk is padded to its longest text and has at most `budget` tokens then, or one text. Of all ways to
    cut at lengths the one of least tokens, padding included, plus `cost` for each chunk. The result depends
    only on the arguments.
    """
    order = np.argsort(-lengths, kind="stable")  # [m]
    widths, counts = (x[::-1].astype(np.int64) for x in np.unique(lengths, return_counts=True))  # [K] twice
    ends = np.concatenate([[0], np.cumsum(counts)])  # [K + 1]
    most = np.maximum(1, budget // widths)  # [K] texts of a chunk
    least, begin = np.zeros(len(ends)), np.zeros(len(ends), np.int64)  # [K + 1] twice
    for end in range(1, len(ends)):
        texts = ends[end] - ends[:end]  # [end]
        price = least[:end] + widths[:end] * texts + cost * -(-texts // most[:end])  # [end]
        begin[end] = price.argmin()
        least[end] = price[begin[end]]
    chunks: list[Ints] = []
    end = len(widths)
    while end:
        start = int(begin[end])
        rows = order[ends[start] : ends[end]]
        chunks += reversed(np.array_split(rows, -(-len(rows) // most[start])))
        end = start
    return chunks[::-1]


class GraphBytes(saved_tensors_hooks):
    """While active, adds up the bytes that graphs keep for a backward pass, without weights."""

    def __init__(self, module: nn.Module) -> None:
        self.total = 0
        self._seen = {x.untyped_storage().data_ptr() for x in (*module.parameters(), *module.buffers())}
        super().__init__(self._pack, lambda kept: kept)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


def room(graph_bytes: float, device: torch.device) -> tuple[int, int]:
    """Tokens of a chunk at most, and of all chunks of a step whose graphs are kept, where a token's graph
    takes `graph_bytes`. The least of all processes, which make this call together."""
    tokens = free_memory(device) / max(graph_bytes, 1.0)
    limits = torch.tensor([CHUNK_SHARE * tokens, STEP_SHARE * tokens], dtype=torch.float64, device=device)
    if world_size() > 1:
        dist.all_reduce(limits, op=dist.ReduceOp.MIN)
    chunk, step = limits.tolist()
    return min(int(chunk), most_tokens(device)), int(step)


def most_tokens(device: torch.device) -> int:
    """`MOST_TOKENS` of a device."""
    return MOST_TOKENS.get(device.type, MOST_TOKENS["cpu"])


def chunk_cost(device: torch.device) -> int:
    """`CHUNK_COST` of a device."""
    return CHUNK_COST.get(device.type, CHUNK_COST["cpu"])


def free_memory(device: torch.device) -> float:
    """Free bytes for this process: on the GPU those that are unused, and those that torch's allocator holds
    without using them; on the host this process's share of what is available."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + idle)
    return HOST_SHARE * available_memory() / world_size()
