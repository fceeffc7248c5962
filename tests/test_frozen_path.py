"""What the frozen-state path computes by hand, against torch's own; and that a step waits for no value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core_worlds import make_world, recommender, with_settings
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.model.recommender import attend
from benchmark.train.batches import EpochBatches
from methods.kernels.gru import last_state
from methods.kernels.mixture import Mixture
from methods.kernels.precision import ROWS, filled


def gradients(value: Tensor, inputs: Any) -> tuple[Tensor, ...]:
    weight = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
    return torch.autograd.grad((value * weight).sum(), tuple(inputs))


@pytest.mark.parametrize("rows", [5, ROWS])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_unit_is_torchs(steps: int, rows: int) -> None:
    torch.manual_seed(steps)
    gru = nn.GRU(6, 6).double()
    z = [torch.randn(rows, 6, dtype=torch.double, requires_grad=True) for _ in range(steps)]
    inputs = [*gru.parameters(), *z]
    found, expected = last_state(gru, z), gru(torch.stack(z))[1][0]
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_under_autocast_the_unit_is_near_fp32() -> None:
    torch.manual_seed(0)
    gru, z = nn.GRU(32, 32), [torch.randn(40, 32) for _ in range(3)]
    exact = gradients(last_state(gru, z), gru.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        low = last_state(gru, z)
    assert low.dtype == torch.bfloat16
    for one, other in zip(gradients(low.float(), gru.parameters()), exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.03 * other.norm()


@pytest.mark.parametrize("heads", [1, 3])
def test_the_mixture_is_its_formula(heads: int) -> None:
    torch.manual_seed(heads)
    shapes = (5, 7), (5, heads), (7, heads, 4), (heads, 7)
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]

    def mixture(x: Tensor, share: Tensor, weight: Tensor, common: Tensor) -> Tensor:
        return Mixture.apply(nn.functional.pad(x, (0, 0, 0, 11)), share, weight, common)

    x, share, weight, common = inputs
    expected = torch.einsum("mk,mkd,dko->mo", share, x[:, None] + common, weight)
    torch.testing.assert_close(mixture(*inputs), expected)
    assert torch.autograd.gradcheck(mixture, inputs)


def test_attention_with_dropout_is_torchs() -> None:
    """The same masks under the same seed, and the same gradients."""
    torch.manual_seed(1)
    q, k, v = (torch.randn(3, 2, 8, 4, requires_grad=True) for _ in range(3))
    mask = torch.ones(8, 8, dtype=torch.bool).tril()[None, None].expand(3, 1, 8, 8)
    results = []
    for way in (attend, lambda *args: nn.functional.scaled_dot_product_attention(*args[:3], mask, args[4])):
        torch.manual_seed(2)
        results.append(way(q, k, v, mask, 0.5))
    torch.testing.assert_close(*results)
    for one, other in zip(*(gradients(result, (q, k, v)) for result in results), strict=True):
        torch.testing.assert_close(one, other)


def test_rows_are_filled_with_zeros() -> None:
    x = torch.randn(ROWS + 1, 3)
    found = filled(x, torch.bfloat16)
    assert found.shape == (2 * ROWS, 3)
    assert torch.equal(found[: ROWS + 1], x.bfloat16())
    assert not found[ROWS + 1 :].any()
    assert filled(x[:ROWS], torch.float32).shape == (ROWS, 3)


WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal", "item"}
"""Operators for whose result, or the shape of it, the host waits on a GPU."""


class Operators(TorchDispatchMode):
    """Names of the operators that run, those under a boolean index included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names.add(name)
        if name in ("index", "index_put_", "_index_put_impl_"):
            dtypes = {index.dtype for index in args[1] if index is not None}
            if dtypes & {torch.bool, torch.uint8}:
                self.names.add("nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("denominator", [True, False])
@pytest.mark.parametrize("candidates", ["batch", "catalogue", "sampled"])
@pytest.mark.parametrize("method", ["id", "tmlp", "tmoe", "ssna", "ssna-mean"])
def test_a_step_waits_for_no_value(method: str, candidates: Any, denominator: bool) -> None:
    world = make_world(3)
    settings = with_settings(
        candidates=candidates, sasrec_dropout=0.3, samples=5, positive_in_denominator=denominator
    )
    model = recommender(settings, world, method).train()
    task = world.task(settings)
    (batch, *_) = EpochBatches(task.train, task.sequences, settings, seed=1, epoch=1)
    with Operators() as seen:
        model(batch).objective.backward()
    assert seen.names & {"mm", "addmm", "bmm"}
    assert seen.names & WAITS == set()
