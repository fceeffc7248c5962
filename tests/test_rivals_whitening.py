"""`linear`, `whitenrec`, `whitenrec-plus` and `ace` against the equations written out plainly in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_methods import INITS, context_of, lost_in_bf16, plain_zca, uneven_states
from torch import Tensor, nn

from methods import registry
from methods.base import Items, Method, state_statistics
from methods.errors import UserError

OUT = 4


def build(name: str, states: Tensor, **values: Any) -> Method:
    """The method on the top layer of `states` `[I, 1, D]`, with random weights, in float64 and eval mode."""
    cls = registry.get(name)
    torch.manual_seed(1)
    method = cls(cls.Config(**values), context_of(states, OUT)).double()
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.5)
    return method.eval()


@torch.no_grad()
def embed(method: Method, states: Tensor) -> Tensor:
    return method(Items(states=method.precompute(states.float()).double()))  # type: ignore[no-any-return]


def plain_start(states: np.ndarray, init: str) -> np.ndarray:
    """`init` of states `[I, D]`."""
    if init == "paper":
        return states
    centred = states - states.mean(0)
    return centred / states.std(0) if init == "standardised" else centred @ plain_zca(states)


@pytest.mark.parametrize("init", INITS)
def test_linear_is_one_matrix(init: str) -> None:
    states = uneven_states(layers=1)
    method = build("linear", states, init=init)
    ((name, weight),) = method.named_parameters()
    assert name == "linear.weight"
    matrix = weight.detach().numpy()
    expected = [
        [sum(matrix[o, i] * row[i] for i in range(len(row))) for o in range(OUT)]
        for row in plain_start(states[:, 0].numpy(), init)
    ]
    np.testing.assert_allclose(embed(method, states).numpy(), expected, 1e-5, 1e-5)


@pytest.mark.parametrize("init", INITS)
def test_dropout_of_linear_drops_towards_the_mean(init: str) -> None:
    """A dropped dimension has the catalogue's mean, the others depart 1 / (1 - share) further from it."""
    states = uneven_states(4, layers=1, width=1)
    method = build("linear", states, init=init, dropout=0.5)
    mean = state_statistics(states)[0].double()[None]  # [1, 1, 1]
    dropped, kept = embed(method, mean), embed(method, 2 * states[:1] - mean)
    draws = embed(method.train(), states[:1].expand(50, 1, 1))
    near = [torch.isclose(draws, place).all(1) for place in (dropped, kept)]
    assert all(bool(found.any()) for found in near) and bool((near[0] ^ near[1]).all())


@pytest.mark.parametrize("init", INITS)
def test_linear_in_bf16_keeps_items_apart_in_spite_of_a_large_mean(init: str) -> None:
    torch.manual_seed(0)
    states = 10 + 0.005 * torch.randn(200, 1, 64)
    cls = registry.get("linear")
    assert lost_in_bf16(cls(cls.Config(init=init), context_of(states, 32)), states) < 0.01


def test_linear_has_one_weight_for_each_pair_of_dimensions() -> None:
    states = uneven_states(8, layers=1, width=24)
    assert sum(parameter.numel() for parameter in build("linear", states).parameters()) == 24 * OUT


def plain_perceptron(method: Method, rows: np.ndarray) -> np.ndarray:
    """Two layers with relu between them, `[I, D]` -> `[I, d]`."""
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in method.parameters())
    return np.maximum(rows @ w1.T + b1, 0) @ w2.T + b2


def plain_groups(states: np.ndarray, groups: int) -> np.ndarray:
    """Each group of columns of `[I, D]` whitened by itself."""
    parts = np.split(states - states.mean(0), groups, axis=1)
    return np.concatenate([part @ plain_zca(part) for part in parts], axis=1)


def test_whitenrec_is_a_perceptron_on_whitened_states() -> None:
    states = uneven_states(layers=1)
    method = build("whitenrec", states)
    expected = plain_perceptron(method, plain_groups(states[:, 0].numpy(), 1))
    np.testing.assert_allclose(embed(method, states).numpy(), expected, 1e-4, 1e-5)


@pytest.mark.parametrize("groups", [2, 3])
def test_whitenrec_plus_adds_a_whitening_by_groups(groups: int) -> None:
    states = uneven_states(layers=1)
    method = build("whitenrec-plus", states, groups=groups)
    parts = [plain_groups(states[:, 0].numpy(), number) for number in (1, groups)]
    expected = sum(plain_perceptron(method, part) for part in parts)
    np.testing.assert_allclose(embed(method, states).numpy(), expected, 1e-4, 1e-5)


def test_what_whitening_leaves_correlated() -> None:
    """Full whitening leaves nothing; that by groups leaves correlations between groups alone."""
    states = uneven_states(400, layers=1)
    states = states @ (torch.eye(6, dtype=torch.float64) + 0.5)  # correlates all dimensions
    full, grouped = build("whitenrec-plus", states, groups=3).precompute(states.float()).unbind(1)
    covariances = [torch.cov(rows.T, correction=0).abs() for rows in (full, grouped)]
    within = torch.block_diag(*[torch.ones(2, 2)] * 3).bool()
    for covariance in covariances:
        torch.testing.assert_close(covariance[within], torch.eye(6)[within], rtol=0, atol=1e-2)
    assert covariances[0][~within].max() < 1e-2 and covariances[1][~within].min() > 0.1


def test_a_group_that_never_varies_stays_at_zero() -> None:
    states = uneven_states(layers=1)
    states[:, :, 2:4] = 1.5
    whitened = build("whitenrec-plus", states, groups=3).precompute(states.float())
    assert bool(whitened.isfinite().all()) and not whitened[:, 1, 2:4].any()


def test_groups_that_do_not_divide_the_width() -> None:
    with pytest.raises(
        UserError, match="groups=5 does not divide the language model's width 12; allowed: 2, 3, 4, 6"
    ):
        build("whitenrec-plus", uneven_states(layers=1, width=12), groups=5)


@pytest.mark.parametrize("name", ["whitenrec", "whitenrec-plus"])
def test_both_have_one_perceptron(name: str) -> None:
    states = uneven_states(8, layers=1, width=24)
    count = sum(parameter.numel() for parameter in build(name, states).parameters())
    assert count == 24 * OUT + OUT + OUT * OUT + OUT


def started(states: Tensor, out: int, **values: Any) -> np.ndarray:
    """The vectors that `ace` starts from, `[I, d]`, given the states in chunks of seven items."""
    cls = registry.get("ace")
    torch.manual_seed(1)
    method = cls(cls.Config(**values), context_of(states, out))
    method.observe(torch.split(states.float(), 7))
    with torch.no_grad():
        return method(Items(ids=torch.arange(len(states)))).double().numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("damping", [1e-3, 0.3, 100.0])
def test_ace_starts_as_a_linear_autoencoder_over_items(damping: float) -> None:
    """Products of its vectors are the autoencoder's weights, up to one factor for all."""
    states = uneven_states(layers=1)
    texts = states[:, 0].numpy() - states[:, 0].numpy().mean(0)
    gram = texts @ texts.T
    weights = np.linalg.solve(gram + damping * np.trace(gram) * np.eye(len(gram)), gram)
    found = started(states, 6, damping=damping, std=0.3)
    assert found.std() == pytest.approx(0.3, rel=1e-4)
    products = found @ found.T
    np.testing.assert_allclose(products / np.trace(products), weights / np.trace(weights), atol=1e-4)


def test_the_dial_of_ace_goes_from_whitening_to_principal_components() -> None:
    states = uneven_states(layers=1)
    texts = states[:, 0].numpy() - states[:, 0].numpy().mean(0)
    left, singular, _ = np.linalg.svd(texts, full_matrices=False)
    for damping, components in ((0.0, left), (1e6, left * singular)):
        found = started(states, 4, damping=damping, std=1.0)
        wanted = components[:, :4] / components[:, :4].std()
        np.testing.assert_allclose(found, wanted * np.sign((found * wanted).sum(0)), atol=1e-3)


def test_ace_with_fewer_directions_starts_the_rest_at_random() -> None:
    states = uneven_states(400, layers=1)
    found, all_of_them = started(states, 5, directions=3), started(states, 5)
    ratio = found[:, :3] / all_of_them[:, :3]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)  # one scale for all
    assert np.abs(np.corrcoef(found.T) - np.eye(5)).max() < 0.2
    assert found[:, 3:].std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(("width", "out", "most"), [(6, 9, 6), (6, 4, 4)])
def test_more_directions_than_there_are(width: int, out: int, most: int) -> None:
    with pytest.raises(UserError, match=f"directions={most + 1} is too many here: 1 to {most}, or 0"):
        started(uneven_states(layers=1, width=width), out, directions=most + 1)
