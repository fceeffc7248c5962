import pytest
import torch

from methods.kernels.dropout import Dropout, dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_drops_the_share_and_keeps_the_mean(share):
    torch.manual_seed(0)
    x = torch.ones(301, 999)  # a size that four does not divide
    y = dropout(x, share, training=True)
    n = x.numel()
    sigma = (share * (1 - share) / n) ** 0.5
    assert abs((y == 0).double().mean().item() - share) < 5 * sigma + 1 / 2**16
    assert torch.equal(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - share)))


def test_masks_are_independent_along_both_axes():
    torch.manual_seed(1)
    kept = (dropout(torch.ones(2000, 64), 0.5, training=True) > 0).double()
    correlation = torch.corrcoef(kept.T) - torch.eye(64)
    assert correlation.abs().max() < 5 / 2000**0.5
    assert not torch.equal(kept, (dropout(torch.ones(2000, 64), 0.5, training=True) > 0).double())


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(7, 5, requires_grad=True)
    y = dropout(x, 0.5, training=True)
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0).float() * 2)


def test_off_in_eval_and_at_zero_and_repeatable_under_a_seed():
    x = torch.randn(4, 4)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert Dropout(0.5).eval()(x) is x
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(Dropout(0.5)(x.bfloat16()))
    assert torch.equal(*draws) and draws[0].dtype == torch.bfloat16
