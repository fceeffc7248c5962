"""Count what training executes, operator by operator, independently of the machine's load.

Floating-point operations are those of matrix products, by torch's formulas and those below that torch lacks.
An operator that looks like a product and has no formula is listed in `not_counted`.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from benchmark.speed.record import Counted, Counts

aten = torch.ops.aten
PRODUCT = re.compile(
    r"(^|_)([a-z]*mm|(add|b)?mv|(v|ve?c)?dot|ger|addr|linear|rnn|lstm|gru|attention|conv\w*|matmul)(_|$)"
)
"""Matches the names of operators that multiply matrices."""
NOT_PRODUCTS = {
    "_thnn_fused_gru_cell",
    "_thnn_fused_gru_cell_backward",
    "_thnn_fused_lstm_cell",
    "constant_pad_nd",
}
"""Named like products, but their products are operators of their own."""
KNOWN_NAMESPACES = {"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional"}
"""Namespaces whose operators `PRODUCT` can judge by name; others may do anything."""


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """All scores, masked or not."""
    return sdpa_flop_count(q.shape, k.shape, v.shape)  # type: ignore[no-any-return, no-untyped-call]


def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Five products: scores again, then the gradients of scores, values, queries and keys."""
    batch, heads, queries, width = q.shape
    keys, own = k.shape[2], v.shape[3]
    return 2 * batch * heads * queries * keys * (3 * width + 2 * own)


def _recurrent(x: Tensor, weights: Sequence[Tensor]) -> int:
    """Each weight matrix is multiplied with every row of the input."""
    rows = x.numel() // x.shape[-1]
    return 2 * rows * sum(weight.numel() for weight in weights if weight.ndim == 2)


FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mv: lambda a, *_, **__: 2 * int(a.numel()),
    aten.dot: lambda a, *_, **__: 2 * int(a.numel()),
    aten.addmv: lambda bias, a, *_, **__: 2 * int(a.numel()),
    aten.linear: lambda x, weight, *_, **__: 2 * int(x.numel() * weight.shape[0]),
    aten._addmm_activation: lambda bias, a, b, *_, **__: 2 * int(a.numel() * b.shape[1]),
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._cudnn_rnn: lambda x, weights, *_, **__: _recurrent(x, weights),
    aten._cudnn_rnn_backward: lambda x, weights, *_, **__: 2 * _recurrent(x, weights),
    aten.mkldnn_rnn_layer: lambda x, *weights, **__: _recurrent(x, weights[:4]),
    aten.mkldnn_rnn_layer_backward: lambda x, *weights, **__: 2 * _recurrent(x, weights[:4]),
}
"""Formulas that torch's registry lacks; called with the operator's arguments."""


class Counter(TorchDispatchMode):
    """Counts, while active, for the part that was entered last."""

    def __init__(self, device: torch.device, part: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.part = device, part
        self.parts: dict[str, Counts] = {}
        self.not_counted: set[str] = set()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Count what runs, not what a compiler traces."""
        return True

    def enter(self, part: str) -> None:
        """Count for `part` from now on."""
        self.part = part

    @property
    def counts(self) -> Counts:
        """Of the current part."""
        return self.parts.setdefault(self.part, Counts())

    def host_copy(self, size: int) -> None:
        """The host got `size` bytes from the device, or waited for it."""
        self.counts.host_copies += 1
        self.counts.host_bytes += size

    def counted(self, **more: Any) -> Counted:
        """The counts so far; `more` are further fields."""
        return Counted(parts=self.parts, not_counted=sorted(self.not_counted), **more)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "profiler":  # marks of the profiler
            return out
        self.counts.operators += 1
        self._count_product(func, args, kwargs, out)
        size = _to_host(func, args, out)
        if size or _makes_host_wait(func, args):
            self.host_copy(size)
        return out

    def _count_product(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func._overloadpacket
        if (formula := FORMULAS.get(packet)) or (formula := flop_registry.get(packet)):
            flops = formula(*args, **kwargs, out_val=out)
            self.counts.flops += flops
            tensors = (leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
            if next(filter(torch.is_floating_point, tensors)).dtype is torch.float32:
                self.counts.flops_fp32 += flops
        elif func.namespace not in KNOWN_NAMESPACES or (
            PRODUCT.search(packet.__name__) and packet.__name__ not in NOT_PRODUCTS
        ):
            self.not_counted.add(f"{func.namespace}.{packet.__name__}")


class _HostCalls(TorchFunctionMode):
    """Counts, on a CPU, the calls that would copy to the host on a GPU: no operator stands for them."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call and count it where it is one of `HOST_CALLS`."""
        if func in HOST_CALLS and args[0].device.type == self.counter.device.type == "cpu":
            self.counter.host_copy(args[0].numel() * args[0].element_size())
        return func(*args, **(kwargs or {}))


HOST_CALLS = (Tensor.numpy, Tensor.tolist, Tensor.__array__)
"""Calls without an operator; `item` and the like have one."""


def _to_host(func: Any, args: Any, out: Any) -> int:
    """Bytes that an operator copies from a device to the host."""
    packet = func._overloadpacket
    if packet is aten._local_scalar_dense:
        return int(args[0].element_size())
    if packet in (aten._to_copy, aten.copy_):
        source = args[1] if packet is aten.copy_ else args[0]
        if source.device.type != "cpu" and out.device.type == "cpu":
            return int(out.numel() * out.element_size())
    return 0


def _makes_host_wait(func: Any, args: Any) -> bool:
    """Whether the shape of the result depends on values, for which the host has to wait."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return torch.Tag.data_dependent_output in func.tags
    if func._overloadpacket is aten.index:  # only by a mask
        indices = (index for index in tree_leaves(args[1]) if index is not None)
        return any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    return True


@contextlib.contextmanager
def counting(device: torch.device, part: str) -> Iterator[Counter]:
    """Count what runs inside; compiled code runs operator by operator."""
    compiles = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext()
    counter = Counter(device, part)
    with eager, counter, _HostCalls(counter):
        yield counter
