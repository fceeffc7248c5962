"""The built-in methods against METHOD's equations written out plainly, in float64."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from benchmark.config import PROTOCOLS, Settings, parse
from benchmark.results.published import best_values
from methods import BUILTIN, registry
from methods.base import Context, Items, Method, state_covariance, state_statistics
from methods.checks import check_method
from methods.declarations import SCHEDULED
from methods.errors import UserError
from methods.moe import MoEAdapter, MoEConfig

D, OUT, HEADS, LAYERS = 6, 4, 3, 3
MOE = ("tmoe", "ssna", "ssna-mean", "ssna-weighted")
INITS = ("paper", "standardised", "zca")


def uneven_states(n_items: int = 40, layers: int = LAYERS, width: int = D, seed: int = 0) -> Tensor:
    """`[I, A, D]` float64, with a common mean and a spread that differ between dimensions."""
    draw = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(layers, width, generator=draw, dtype=torch.float64)
    spread = torch.rand(layers, width, generator=draw, dtype=torch.float64) + 0.1
    return mean + spread * torch.randn(n_items, layers, width, generator=draw, dtype=torch.float64)


def context_of(states: Tensor, out: int = OUT) -> Context:
    """What a method knows that reads all of `states` `[I, A, D]`."""
    mean, std = state_statistics(states)
    covariance = state_covariance(states, mean)
    return Context(out, len(states), 10, 12, states.shape[-1], mean, std, covariance)


def build(name: str, states: Tensor, seed: int = 1, out: int = OUT, **values: Any) -> Method:
    """The method over the layers it reads, its weights random and of order one, in float64."""
    cls = registry.get(name)
    config = cls.Config(**values)
    used = states[:, : len(cls.layers(config, 12))]
    torch.manual_seed(seed)
    context = context_of(used, out)
    method = cls(config, context).double()
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.5)
    return method


def run(method: Method, states: Tensor) -> Tensor:
    used = len(type(method).layers(method.config, 12))
    with torch.no_grad():
        return method(Items(states=states[:, :used]))


# --- Eqs. 1-4, in raw coordinates, with loops ---------------------------------------------------------------


def plain_adapter(adapter: MoEAdapter, h: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Eqs. 1-3 for one item's state `h` `[D]`; `shift` and `scale` are those of the Whitening docstring."""
    weight, b = adapter.weight.detach().numpy(), adapter.shift.detach().numpy()
    routes = adapter.route_mean.detach().numpy()
    width, heads, out = weight.shape
    raw_b = [[shift[i] + scale[i] * b[k, i] for i in range(width)] for k in range(heads)]
    projected = [
        [sum((h[i] - raw_b[k][i]) * (weight[i, k, j] / scale[i]) for i in range(width)) for j in range(out)]
        for k in range(heads)
    ]
    mu = [sum((h[i] - shift[i]) * routes[i, k] / scale[i] for i in range(width)) for k in range(heads)]
    total = sum(math.exp(value) for value in mu)
    return np.array(
        [sum(math.exp(mu[k]) / total * projected[k][j] for k in range(heads)) for j in range(out)]
    )


def plain_gru(gru: nn.GRU, sequence: list[np.ndarray]) -> np.ndarray:
    """Cho et al. 2014 as torch writes it: reset, update, candidate; from a zero state, in order."""
    w_ih, w_hh, b_ih, b_hh = (getattr(gru, f"{name}_l0").detach().numpy() for name in
                              ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))  # fmt: skip
    state = np.zeros(gru.hidden_size)
    for z in sequence:
        from_input = np.split(w_ih @ z + b_ih, 3)
        from_state = np.split(w_hh @ state + b_hh, 3)
        reset, update = (1 / (1 + np.exp(-(from_input[i] + from_state[i]))) for i in (0, 1))
        candidate = np.tanh(from_input[2] + reset * from_state[2])
        state = (1 - update) * candidate + update * state
    return state


def plain_zca(states: np.ndarray) -> np.ndarray:
    """`[I, D]` -> `[D, D]`: the inverse square root of the covariance, by its power series' closed form."""
    covariance = np.cov(states.T, bias=True)
    loaded = covariance + 1e-5 * np.linalg.norm(covariance, 2) * np.eye(len(covariance))
    return np.real(scipy.linalg.inv(scipy.linalg.sqrtm(loaded)))


def plain(name: str, method: Method, states: Tensor) -> np.ndarray:
    """`[M, d]`, item by item and layer by layer from the top one down."""
    values = states.numpy()
    mean, std = (part.double().numpy() for part in state_statistics(states))
    adapters = [method.adapter] if name == "tmoe" else list(method.adapters)
    rows = []
    for item in values:
        zs = []
        for m, adapter in enumerate(adapters):
            init = method.config.init
            shift = np.zeros(D) if init == "paper" else mean[m]
            scale = std[m] if init == "standardised" else np.ones(D)
            state = item[m]
            if init == "zca":  # as plain_adapter subtracts the shift, it is added after the rotation
                state = shift + (item[m] - shift) @ plain_zca(values[:, m])
            zs.append(plain_adapter(adapter, state, shift, scale))
        if name == "ssna":
            rows.append(plain_gru(method.gru, zs))
        elif name == "ssna-weighted":
            rows.append(sum(w * z for w, z in zip(method.weights.tolist(), zs, strict=True)))
        else:
            rows.append(sum(zs) / len(zs))
    return np.stack(rows)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", MOE)
def test_equations_1_to_4(name: str, init: str) -> None:
    states = uneven_states()
    method = build(name, states, init=init, heads=HEADS).eval()
    digits = 1e-5 if init == "zca" else 1e-9  # the matrix of zca is kept in float32
    np.testing.assert_allclose(run(method, states).numpy(), plain(name, method, states), digits, digits)


class PWLayer(nn.Module):
    """An expert of UniSRec: parametric whitening."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(D, dtype=torch.float64))
        self.lin = nn.Linear(D, OUT, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x - self.bias)  # type: ignore[no-any-return]


class MoEAdaptorLayer(nn.Module):
    """UniSRec's adaptor without dropout and with its gates' noise off, as in evaluation."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(PWLayer() for _ in range(experts))
        self.w_gate = nn.Parameter(torch.zeros(D, experts, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        gates = (x @ self.w_gate).softmax(-1)  # [M, E]
        outputs = torch.cat([expert(x).unsqueeze(-2) for expert in self.experts], dim=-2)  # [M, E, d]
        return (gates.unsqueeze(-1) * outputs).sum(dim=-2)  # [M, d]


def test_tmoe_is_unisrecs_adaptor_with_the_same_weights() -> None:
    """Values and gradients."""
    states = uneven_states()
    method = build("tmoe", states, heads=HEADS).eval()
    theirs, ours = MoEAdaptorLayer(HEADS), method.adapter
    with torch.no_grad():
        theirs.w_gate.copy_(ours.route_mean)
        for k, expert in enumerate(theirs.experts):
            expert.bias.copy_(ours.shift[k])
            expert.lin.weight.copy_(ours.weight[:, k].T)
    expected, output = theirs(states[:, 0]), method(Items(states=states[:, :1]))
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
    weight = torch.randn(expected.shape, dtype=torch.float64)
    for result in (expected, output):
        (result * weight).sum().backward()
    torch.testing.assert_close(ours.route_mean.grad, theirs.w_gate.grad, rtol=1e-6, atol=1e-6)
    for k, expert in enumerate(theirs.experts):
        torch.testing.assert_close(ours.shift.grad[k], expert.bias.grad, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.weight.grad[:, k].T, expert.lin.weight.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_tmlp_is_a_perceptron_on_the_top_state(layers: int, init: str) -> None:
    states = uneven_states()
    method = build("tmlp", states, init=init, mlp_layers=layers).eval()
    mean, std = (part[0].double() for part in state_statistics(states))
    x = states[:, 0]
    if init == "standardised":
        x = (x - mean) / std
    elif init == "zca":
        x = (x - mean) @ torch.from_numpy(plain_zca(x.numpy()))
    weights = [value for key, value in method.state_dict().items() if key.endswith("weight")]
    biases = [value for key, value in method.state_dict().items() if key.endswith("bias")]
    assert len(weights) == layers
    for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight.T + bias
        if depth < layers - 1:
            x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))  # GELU
    torch.testing.assert_close(run(method, states), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ssna", "ssna-mean", "ssna-weighted"])
def test_layers_from_the_top_down(name: str) -> None:
    cls = registry.get(name)
    assert cls.layers(cls.Config(top_layers=3), 6) == (6, 5, 4)
    assert cls.layers(cls.Config(top_layers=2), 2) == (2, 1)
    with pytest.raises(UserError, match="top_layers=3"):
        cls.layers(cls.Config(top_layers=3), 2)


def test_the_gru_reads_the_top_layer_first() -> None:
    """The deepest adapter is read last: a GRU that keeps nothing shows it alone."""
    states = uneven_states()
    method = build("ssna", states)
    with torch.no_grad():
        method.gru.bias_ih_l0[OUT : 2 * OUT] = -1e3  # the update gate is shut: each step forgets
        method.gru.weight_hh_l0.zero_()
    before = run(method.eval(), states)
    for place, matters in ((0, False), (1, False), (2, True)):
        changed = states.clone()
        changed[:, place] += 1
        assert torch.equal(run(method, changed), before) is not matters


def test_starting_points() -> None:
    states = uneven_states(width=50)
    for name in MOE:
        adapters = [
            m for m in fresh(name, states, init="standardised").modules() if isinstance(m, MoEAdapter)
        ]
        assert all(not adapter.shift.any() for adapter in adapters)  # b is the catalogue's mean
        for adapter in (m for m in fresh(name, states).modules() if isinstance(m, MoEAdapter)):
            assert float(adapter.shift.detach().std()) == pytest.approx(0.02, rel=0.2)
    weighted = fresh("ssna-weighted", states, top_layers=2)
    assert weighted.weights.tolist() == [0.5, 0.5]


def fresh(name: str, states: Tensor, out: int = OUT, **values: Any) -> Method:
    """The method as it starts, in fp32."""
    cls = registry.get(name)
    config = cls.Config(**values)
    used = states[:, : len(cls.layers(config, 12))]
    torch.manual_seed(1)
    return cls(config, context_of(used, out))


# --- `init`: one class of functions, two starting points ----------------------------------------------------


def moved_to_paper(adapter: MoEAdapter, target: MoEAdapter, mean: Tensor, std: Tensor) -> None:
    """Write a standardised adapter's function into `target`, whose `init` is paper."""
    with torch.no_grad():
        target.weight.copy_(adapter.weight / std[:, None, None])
        target.shift.copy_(mean + std * adapter.shift)
        if adapter.heads > 1:  # one head has no routing
            target.route_mean.copy_(adapter.route_mean / std[:, None])
            target.route_std.copy_(adapter.route_std / std[:, None])


def paper_twin(name: str, states: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Outputs of a standardised method and of the paper one with its weights moved over."""
    standardised = build(name, states, init="standardised", heads=heads).eval()
    twin = build(name, states, seed=2, init="paper", heads=heads).eval()
    twin.load_state_dict(standardised.state_dict())
    mean, std = (part.double() for part in state_statistics(states))
    pairs = zip(standardised.modules(), twin.modules(), strict=True)
    adapters = [(a, b) for a, b in pairs if isinstance(a, MoEAdapter)]
    for layer, (source, target) in enumerate(adapters):
        moved_to_paper(source, target, mean[layer], std[layer])
    return run(standardised, states), run(twin, states)


@pytest.mark.parametrize("name", MOE)
def test_one_head_is_the_same_function_under_both_inits(name: str) -> None:
    torch.testing.assert_close(*paper_twin(name, uneven_states(), heads=1))


@pytest.mark.parametrize("name", MOE)
def test_many_heads_are_the_same_function_where_the_mean_is_zero(name: str) -> None:
    states = uneven_states()
    states = states - states.mean(0)
    torch.testing.assert_close(*paper_twin(name, states, heads=HEADS), rtol=1e-5, atol=1e-5)


# --- Routing noise and dropout ------------------------------------------------------------------------------


def share_of_first_head(noise: str, training: bool, n: int = 40_000) -> Tensor:
    """alpha_1 - alpha_2 of `n` items with the state (1, 0); mu = (.5, -.2), rho = (.3, -1)."""
    config = MoEConfig(heads=2, dropout=0.0, noise=noise)  # type: ignore[arg-type]
    context = Context(1, n, 10, 12, 2, torch.zeros(1, 2), torch.ones(1, 2))
    adapter = MoEAdapter(config, context, 0).double().train(training)
    with torch.no_grad():
        adapter.shift.zero_()
        adapter.weight.zero_()
        adapter.weight[0, 0, 0] = 1.0  # head 1 says 1, head 2 says 0: the output is head 1's share
        adapter.route_mean[0] = torch.tensor([0.5, -0.2])
        if noise != "never":
            adapter.route_std[0] = torch.tensor([0.3, -1.0])
        torch.manual_seed(3)
        return adapter(torch.tensor([[1.0, 0.0]]).expand(n, 2)).squeeze(1).logit()


@pytest.mark.parametrize(("noise", "training"), [("train", True), ("always", True), ("always", False)])
def test_routing_draws_from_the_gaussian(noise: str, training: bool) -> None:
    draws = share_of_first_head(noise, training)
    variance = sum(math.log1p(math.exp(rho)) ** 2 for rho in (0.3, -1.0))  # softplus, two independent heads
    n = len(draws)
    assert float(draws.mean()) == pytest.approx(0.7, abs=4 * math.sqrt(variance / n))
    assert float(draws.var()) == pytest.approx(variance, abs=4 * variance * math.sqrt(2 / n))
    assert len(draws.unique()) == n  # each item has its own


@pytest.mark.parametrize(("noise", "training"), [("train", False), ("never", True), ("never", False)])
def test_routing_uses_the_mean_otherwise(noise: str, training: bool) -> None:
    draws = share_of_first_head(noise, training, n=5)
    torch.testing.assert_close(draws, torch.full((5,), 0.7, dtype=torch.float64))


@pytest.mark.parametrize("name", MOE)
def test_without_noise_there_is_no_spread_to_train(name: str) -> None:
    """And the rest starts and computes as with noise, whose mean is used in eval mode."""
    cls, states = registry.get(name), uneven_states()
    check_method(cls, cls.Config(noise="never"))
    silent, noisy = build(name, states, noise="never", dropout=0.0), build(name, states)
    rest = {key: value for key, value in noisy.state_dict().items() if "route_std" not in key}
    silent.load_state_dict(rest)
    torch.testing.assert_close(run(silent.train(), states), run(noisy.eval(), states), rtol=0, atol=1e-12)


def test_noise_reaches_the_spread_of_the_routes() -> None:
    method = build("ssna", uneven_states(), dropout=0.0).train()
    method(Items(states=uneven_states())).sum().backward()
    assert all(bool(adapter.route_std.grad.any()) for adapter in method.adapters)


READERS = {"tmoe": {"heads": 1}, "tmlp": {"mlp_layers": 1}}
"""Readers of states in a form that is linear in the state."""


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("name", "hyper"), READERS.items())
def test_dropout_of_states_drops_towards_the_mean(name: str, hyper: dict[str, int], init: str) -> None:
    """Of a one-dimensional state a share p becomes the mean; the rest departs 1/(1-p) further. One definition
    for all readers of states."""
    states = uneven_states(4, layers=1, width=1)
    mean = state_statistics(states)[0].double()
    dropped_at(build(name, states, out=1, init=init, dropout=0.25, **hyper), states[:1], mean[None])


@pytest.mark.parametrize(("name", "hyper"), READERS.items())
def test_dropout_of_raw_states_drops_towards_zero(name: str, hyper: dict[str, int]) -> None:
    states = uneven_states(4, layers=1, width=1)
    method = build(name, states, out=1, dropout=0.25, dropout_on="raw", **hyper)
    dropped_at(method, states[:1], torch.zeros_like(states[:1]))


def dropped_at(method: Method, state: Tensor, place: Tensor) -> None:
    """`method` drops a quarter of the states `[1, 1, 1]`, each of which becomes `place` `[1, 1, 1]`."""
    kept, at_place = run(method.eval(), state), run(method, place)
    torch.manual_seed(0)
    draws = run(method.train(), state.expand(20_000, 1, 1))
    dropped = (draws - at_place).abs() < 1e-9
    assert float(dropped.double().mean()) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 20_000))
    expected = at_place + (kept - at_place) / 0.75
    torch.testing.assert_close(draws[~dropped], expected.expand_as(draws)[~dropped])


@pytest.mark.parametrize("init", INITS)
def test_dropout_of_experts_leaves_the_routing_alone(init: str) -> None:
    """UniSRec's: each expert has a mask of its own on the state, so the mean over masks is the embedding
    without dropout; were the routing dropped too, it would not be."""
    states = uneven_states(1, layers=1, width=3)
    method = build(
        "tmoe", states, out=2, init=init, heads=2, noise="never", dropout_on="experts", dropout=0.5
    )
    torch.manual_seed(0)
    draws = run(method.train(), states[:1].expand(100_000, 1, 3))
    error = 5 * draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - run(method.eval(), states[:1])).abs() < error).all()
    assert len(draws.round(decimals=9).unique(dim=0)) == 2 ** (
        2 * 3
    )  # masks of two experts on three dimensions


# --- Size and precision -------------------------------------------------------------------------------------


def test_numbers_of_trainable_parameters() -> None:
    width, out, n_p, a, n_items = 384, 256, 8, 3, 7
    head = width * out + width  # W and b
    adapter = n_p * head + 2 * width * n_p  # B and U
    gru = 3 * (2 * out * out + 2 * out)
    expected = {
        ("ssna", ()): a * adapter + gru,
        ("ssna", (("top_layers", 2),)): 2 * adapter + gru,
        ("ssna", (("top_layers", 1),)): adapter + gru - 3 * out * out,  # its state is zero when it is read
        ("ssna-mean", ()): a * adapter,
        ("ssna-weighted", ()): a * adapter + a,
        ("tmoe", ()): adapter,
        ("tmoe", (("heads", 2),)): 2 * head + 4 * width,
        ("tmlp", (("mlp_layers", 1),)): width * out + out,
        ("tmlp", (("mlp_layers", 3),)): width * out + out + 2 * (out * out + out),
    }
    states = uneven_states(n_items, a, width)
    for (name, values), count in expected.items():
        method = fresh(name, states, out, **dict(values))
        assert sum(p.numel() for p in method.parameters() if p.requires_grad) == count, (name, values)
    vectors = registry.get("id")(registry.get("id").Config(), Context(out, n_items, 10))
    assert sum(p.numel() for p in vectors.parameters()) == n_items * out


def lost_in_bf16(method: Method, states: Tensor) -> float:
    """What bf16 takes of that which tells items apart, as a share of it."""
    exact = run(method.eval(), states)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(method, states).float()
    exact, rounded = exact - exact.mean(0), rounded - rounded.mean(0)
    return float((exact - rounded).norm() / exact.norm())


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", ["tmoe", "ssna-mean", "ssna-weighted"])
def test_bf16_keeps_items_apart_in_spite_of_a_large_mean(name: str, init: str) -> None:
    torch.manual_seed(0)
    states = 10 + 0.005 * torch.randn(200, 3, 384)
    assert lost_in_bf16(fresh(name, states, 256, init=init), states) < 0.01


@pytest.mark.parametrize(("init", "most"), [("paper", 0.05), ("standardised", 0.02)])
@pytest.mark.parametrize("name", ["ssna", "tmlp"])
def test_bf16_under_statistics_like_minilms(name: str, init: str, most: float) -> None:
    """One dimension is 10 with a spread of 0.005. The GRU and the perceptron run in bf16."""
    torch.manual_seed(0)
    mean, spread = 0.3 * torch.randn(384), torch.full((384,), 0.2)
    mean[5], spread[5] = 10.0, 0.005
    states = mean + spread * torch.randn(200, 3, 384)
    assert lost_in_bf16(fresh(name, states, 256, init=init), states) < most


# --- The contract, and what the classes declare -------------------------------------------------------------


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_method_keeps_the_contract(name: str) -> None:
    cls = registry.get(name)
    check_method(cls)
    if "init" in {setting.name for setting in fields(cls.Config)}:
        for init in INITS[1:]:
            check_method(cls, replace(cls.Config(), init=init), seed=1)


@pytest.mark.parametrize("name", BUILTIN)
def test_tables_name_settings_and_values_that_exist(name: str) -> None:
    """Read as a user's `--set` would be."""
    cls = registry.get(name)
    own = {setting.name for setting in fields(cls.Config)}
    rows = [*cls.paper.values(), *cls.schedule.values()]
    rows += [{key: value} for key, values in cls.grid.items() for value in values]
    for row in rows:
        harness = {key: str(value) for key, value in row.items() if key not in own}
        assert set(harness) <= set(SCHEDULED)
        assert all(getattr(parse(Settings, harness, "test"), key) == row[key] for key in harness)
        mine = {key: str(value) for key, value in row.items() if key in own}
        assert all(getattr(parse(cls.Config, mine, "test"), key) == row[key] for key in mine)
    assert set(cls.schedule) <= set(PROTOCOLS)


def test_grids_and_best_values_of_the_paper() -> None:
    batches = (32, 64, 128, 256)
    for name in (*MOE, "tmlp"):
        assert registry.get(name).grid["batch_size"] == batches
    assert registry.get("ssna").grid["top_layers"] == (2, 3)
    assert registry.get("tmlp").grid["mlp_layers"] == (1, 2, 3)
    assert best_values("ssna")["distilroberta", "sci"] == {"batch_size": 64, "top_layers": 3}
    assert best_values("tmlp")["distilroberta", "pantry"] == {"batch_size": 256, "mlp_layers": 1}
    assert best_values("tmoe")["bert-medium", "tools"] == {"batch_size": 64}
