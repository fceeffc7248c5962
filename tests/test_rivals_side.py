"""Side networks against their equations written out item by item in NumPy, in raw coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf, expit
from test_methods import INITS, D, context_of, lost_in_bf16, plain_zca, uneven_states
from torch import Tensor, nn

from methods import registry
from methods.base import Context, Items, state_statistics
from methods.checks import check_method
from methods.errors import UserError
from methods.under_test import LAYERS

STRIDE = 4
"""Of a language model of 12 layers, so that three are read."""


def build(name: str, states: Tensor, **values: Any) -> Any:
    """The method over `states` `[I, A, D]`, its weights random, in float64 and eval mode."""
    cls = registry.get(name)
    torch.manual_seed(1)
    method = cls(cls.Config(stride=12 // states.shape[1], **values), context_of(states)).double().eval()
    for key, parameter in method.named_parameters():
        nn.init.normal_(parameter, std=0.1 if key == "gates" else 0.5)
    return method


def embed(method: Any, states: Tensor) -> Tensor:
    with torch.no_grad():
        return method(Items(states=method.precompute(states)))


def plain_inputs(states: Tensor, init: str) -> np.ndarray:
    """What a block reads of `states` `[I, A, D]`, after the fixed map of `init`."""
    values, (mean, std) = states.numpy(), (part.double().numpy() for part in state_statistics(states))
    if init == "paper":
        return values
    if init == "standardised":
        return (values - mean) / std
    layers = [(values[:, m] - mean[m]) @ plain_zca(values[:, m]) for m in range(values.shape[1])]
    return np.stack(layers, axis=1)


def linear(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def plain_ladder(weights: dict[str, np.ndarray], item: np.ndarray) -> np.ndarray:
    side: Any = 0.0
    for i, x in enumerate(item):
        gate = expit(weights["gates"][i] / 0.1)
        u = gate * linear(weights, f"projections.{i}", x) + (1 - gate) * side
        normal = (u - u.mean()) / np.sqrt(u.var() + 1e-5)
        normal = weights[f"blocks.{i}.0.weight"] * normal + weights[f"blocks.{i}.0.bias"]
        side = u + linear(weights, f"blocks.{i}.3", gelu(linear(weights, f"blocks.{i}.1", normal)))
    return linear(weights, "head", side)


def plain_iisan(weights: dict[str, np.ndarray], item: np.ndarray) -> np.ndarray:
    side: Any = 0.0
    for i, x in enumerate(item):
        gate = expit(weights["gates"][i] / 0.1)
        u = gate * x + (1 - gate) * side
        side = u + linear(weights, f"blocks.{i}.2", gelu(linear(weights, f"blocks.{i}.0", u)))
    return linear(weights, "head", side)


PLAIN = {"ladder": (plain_ladder, {"reduction": 2}), "iisan": (plain_iisan, {"bottleneck": 3})}


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", PLAIN)
def test_equations(name: str, init: str) -> None:
    plain, values = PLAIN[name]
    states = uneven_states()
    method = build(name, states, init=init, **values)
    weights = {key: value.numpy() for key, value in method.state_dict().items()}
    expected = np.stack([plain(weights, item) for item in plain_inputs(states, init)])
    digits = 1e-5 if init == "zca" else 1e-9  # the matrix of zca is kept in float32
    np.testing.assert_allclose(embed(method, states).numpy(), expected, digits, digits)


@pytest.mark.parametrize("name", PLAIN)
def test_layers_from_the_lowest_up(name: str) -> None:
    cls = registry.get(name)
    assert cls.layers(cls.Config(stride=1), 3) == (1, 2, 3)
    assert cls.layers(cls.Config(stride=2), 6) == (2, 4, 6)
    assert cls.layers(cls.Config(stride=2), 5) == (1, 3, 5)
    assert cls.layers(cls.Config(stride=4), 12) == (4, 8, 12)
    with pytest.raises(UserError, match="stride=4 is more than the language model has layers: 1 to 3"):
        cls.layers(cls.Config(stride=4), 3)


@pytest.mark.parametrize("name", PLAIN)
def test_one_layer_alone_keeps_the_contract(name: str) -> None:
    cls = registry.get(name)
    check_method(cls, cls.Config(stride=LAYERS))


def test_the_side_network_of_a_ladder_is_not_empty() -> None:
    cls = registry.get("ladder")
    with pytest.raises(UserError, match=f"reduction={D + 1} leaves no side network.*: 1 to {D}"):
        cls(cls.Config(reduction=D + 1, stride=STRIDE), context_of(uneven_states()))


def test_defaults_are_those_of_the_papers() -> None:
    """LST reads each layer; LayerDrop leaves every second one out, and an adapter begins as the identity."""
    ladder, iisan = registry.get("ladder"), registry.get("iisan")
    assert ladder.layers(ladder.Config(), 4) == (1, 2, 3, 4) and iisan.layers(iisan.Config(), 4) == (2, 4)
    method = iisan(iisan.Config(stride=STRIDE), context_of(uneven_states(width=50)))
    for block in method.blocks:
        assert float(block[0].weight.detach().std()) == pytest.approx(0.01, rel=0.1)
        assert not block[0].bias.any() and not block[2].bias.any()


@pytest.mark.parametrize("name", PLAIN)
def test_a_shut_gate_lets_nothing_of_its_layer_through(name: str) -> None:
    states = uneven_states()
    method = build(name, states, **PLAIN[name][1])
    other = states.flip(0)
    for gates, decides in (([9.0, -9.0, -9.0], 0), ([0.0, 0.0, 9.0], 2)):
        method.gates.data = torch.tensor(gates, dtype=torch.float64)
        before = embed(method, states)
        for place in range(3):
            changed = states.clone()
            changed[:, place] = other[:, place]
            moved = float((embed(method, changed) - before).abs().max())
            assert (moved > 1e-3) is (place == decides)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", PLAIN)
def test_bf16_keeps_items_apart_in_spite_of_a_large_mean(name: str, init: str) -> None:
    """Were the mean of 10 rounded with the states, hardly anything of a spread of .005 would be left."""
    cls = registry.get(name)
    torch.manual_seed(0)
    states = 10 + 0.005 * torch.randn(200, 3, 64)
    method = cls(cls.Config(stride=STRIDE, init=init), context_of(states, 32))
    assert lost_in_bf16(method, method.precompute(states)) < 0.02


def test_numbers_of_trainable_parameters() -> None:
    """Those that the pages of the methods state."""
    width, out, a = 384, 256, 6
    context = Context(out, 9, 10, a, width, torch.zeros(a, width), torch.ones(a, width))
    w = width // 8
    expected = {
        "ladder": a * (width * w + 8 * w * w + 8 * w + 1) + w * out + out,
        "iisan": a * (2 * width * 64 + width + 64 + 1) + width * out + out,
    }
    for name, count in expected.items():
        method = registry.get(name)(registry.get(name).Config(stride=1), context)
        assert sum(p.numel() for p in method.parameters() if p.requires_grad) == count, name
