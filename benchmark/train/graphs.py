"""Forward and backward passes of a step as CUDA graphs: hundreds of small kernels started with one call.

On frozen states a step is so little arithmetic that a GPU waits for Python, which starts its kernels one by
one. A graph is recorded for a shape and replayed for every batch of this shape. So that there are few shapes,
batches are filled up: with bins of padding, and with predictions and candidates that are hidden and have
weight 0. Symbols in shape comments: those of `Batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.model.items import Batch, Share

FILL = {"segments": -1, "users": -1, "own": -1, "candidate_users": -1, "candidate_group": -1}
"""Values of fillers that are not 0; their weight is 0."""
CANDIDATES = ("candidates", "candidate_rows", "candidate_users", "candidate_group")


class StepGraphs:
    """Gradients of whole batches by replay. For one process, and for methods that do the same operations at
    each call (`Method.replayable`)."""

    def __init__(
        self,
        gradients: Callable[[Batch], Tensor],
        parameters: Sequence[nn.Parameter],
        device: torch.device,
        log: Callable[[str], None],
    ) -> None:
        """`gradients` adds those of a batch to `parameters`; its result is that of `run`."""
        self.gradients, self.parameters, self.device, self.log = gradients, parameters, device, log
        self.works = device.type == "cuda"
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._sums: list[Tensor] = []
        """Where graphs leave the gradients, one for each parameter."""
        self._pool: Any = None
        self._stream = torch.cuda.Stream(device) if self.works else None  # type: ignore[no-untyped-call]
        """Where recording happens, and what runs before: libraries and autograd tell streams apart."""

    def run(self, batch: Batch) -> Tensor:
        """Leave the gradients of `batch` in the parameters: -> what `gradients` returned, to be read before
        the next call."""
        self._sums = self._sums or [torch.zeros_like(parameter) for parameter in self.parameters]
        filled = filled_up(batch)
        key = _key(filled)
        if key not in self._shapes:
            self._shapes[key] = _Shape(filled, self.device)
        shape = self._shapes[key]
        shape.load(filled)
        for parameter, gradient in zip(self.parameters, self._sums, strict=True):
            parameter.grad = gradient
        if shape.graph is None and shape.seen and self.works:
            self._record(shape)
        shape.seen = True
        if shape.graph is None:
            return self._plainly(shape)
        shape.graph.replay()
        assert shape.out is not None
        return shape.out

    @property
    def recorded(self) -> int:
        """How many shapes are replayed."""
        return sum(shape.graph is not None for shape in self._shapes.values())

    def _plainly(self, shape: _Shape) -> Tensor:
        """Operator by operator: the first batch of a shape, which also makes what libraries set up once."""
        if self._stream is None:
            return self._add(shape)
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            out = self._add(shape)
        here.wait_stream(self._stream)
        return out

    def _add(self, shape: _Shape) -> Tensor:
        torch._foreach_zero_(self._sums)
        return self.gradients(shape.batch())

    def _record(self, shape: _Shape) -> None:
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                shape.out = self._add(shape)
        except RuntimeError as error:
            self.works = False
            why = str(error).partition("\n")[0]
            self.log(f"steps cannot be recorded, so they run operator by operator: {why}")
        else:
            shape.graph = graph


class _Shape:
    """The device memory for batches of one shape, and the graph that reads it.

    All tensors form one row of int64, so that a batch is one copy; weights are stored as bits of float64.
    """

    def __init__(self, batch: Batch, device: torch.device) -> None:
        self.like, self.seen = batch, False
        self.graph: torch.cuda.CUDAGraph | None = None
        self.out: Tensor | None = None
        self._row = torch.zeros(len(_flat(batch)), dtype=torch.int64, device=device)

    def load(self, batch: Batch) -> None:
        """Lay `batch` on the device, without a wait."""
        host = _flat(batch)
        self._row.copy_(host.pin_memory() if self._row.is_cuda else host, non_blocking=True)

    def batch(self) -> Batch:
        """The tensors of the batch that was loaded last."""
        tensors, begin = {}, 0
        for name, value in _tensors(self.like).items():
            part = self._row[begin : (begin := begin + value.numel())]
            part = part if value.dtype == torch.int64 else part.view(torch.float64).to(value.dtype)
            tensors[name] = part.view(value.shape)
        share = replace(self.like.share, index=tensors.pop("index"))
        return replace(self.like, share=share, **tensors)  # type: ignore[arg-type]


def filled_up(batch: Batch) -> Batch:
    """`batch` with its bins, items, predictions and candidates filled up to `size`; the same loss."""
    like = batch
    if batch.candidate_users is not None and batch.group is None:
        # filler candidates are of another batch than all predictions, so that none sees them
        groups = (torch.zeros_like(batch.targets), torch.zeros_like(batch.candidates))
        like = replace(batch, group=groups[0], candidate_group=groups[1])
    shared = batch.candidate_users is None  # as many at each step
    filled = {
        name: value if shared and name in CANDIDATES else _longer(value, FILL.get(name, 0))
        for name, value in _tensors(like).items()
    }
    filled.pop("index")
    items = batch.share.items
    items = np.concatenate([items, np.repeat(items[:1], size(len(items)) - len(items))])  # [M]
    return replace(like, share=Share(items, torch.from_numpy(items), len(items)), **filled)  # type: ignore[arg-type]


def size(number: int) -> int:
    """`number` rounded up to a grid that has four values between two powers of two."""
    step = 1 << max(0, number.bit_length() - 3)
    return -(-number // step) * step


def _longer(value: Tensor, fill: int) -> Tensor:
    """`[n, ...]` -> `[size(n), ...]`"""
    more = value.new_full((size(len(value)) - len(value), *value.shape[1:]), fill)
    return torch.cat([value, more])


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """All that a step reads on the device, in a fixed order."""
    own = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return {"index": batch.share.index, **own}


def _flat(batch: Batch) -> Tensor:
    values = _tensors(batch).values()
    return torch.cat(
        [(x if x.dtype == torch.int64 else x.double().view(torch.int64)).reshape(-1) for x in values]
    )  # [all]


def _key(batch: Batch) -> tuple[Any, ...]:
    return tuple((name, tuple(value.shape)) for name, value in _tensors(batch).items())
