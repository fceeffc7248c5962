"""Item vectors made of text vectors, against the papers' equations written out in NumPy.

`llminit` starts from principal components, `alphafuse` keeps them, `vqrec` quantises the vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods import registry
from methods.base import Context, Items, Method, state_covariance, state_statistics
from methods.checks import check_method
from methods.errors import UserError
from methods.principal import principal_components

ITEMS, WIDTH = 60, 12


def text_vectors(items: int = ITEMS, width: int = WIDTH, seed: int = 0) -> Tensor:
    """`[I, 1, D]` fp32: a large common mean, correlated dimensions, and scales from .05 to 1."""
    draw = torch.Generator().manual_seed(seed)
    mean = 3 * torch.randn(width, generator=draw)
    mixing = torch.linalg.qr(torch.randn(width, width, generator=draw))[0]
    scales = torch.linspace(1, 0.05, width)
    return (mean + (torch.randn(items, width, generator=draw) * scales) @ mixing)[:, None]


def build(name: str, states: Tensor, out: int, **values: Any) -> Method:
    """The method, which has observed the states in chunks of 25 items."""
    cls = registry.get(name)
    mean, std = state_statistics(states)
    covariance = state_covariance(states, mean)
    context = Context(out, len(states), 10, 12, states.shape[-1], mean, std, covariance)
    torch.manual_seed(1)
    method = cls(cls.Config(**values), context)
    with torch.no_grad():
        method.observe(torch.split(states, 25))
    return method.eval()


def embedded(method: Method, states: Tensor, rows: Tensor) -> np.ndarray:
    """Embeddings of the items `rows`, `[M, d]` float64."""
    with torch.no_grad():
        made = method.precompute(states[rows])
        return method(Items(ids=rows, states=made)).double().numpy()


def components(states: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of each item, `[I, D]`, and their variances, by a decomposition of the data."""
    centred = states[:, 0].double().numpy()
    centred = centred - centred.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return left * singular, singular**2 / len(centred)


def match_signs(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`wanted` with the sign of each column that `found` has: a principal direction has none."""
    return wanted * np.sign((found * wanted).sum(0))


ALL = torch.arange(ITEMS)


# --- llminit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", ["kept", "equal"])
@pytest.mark.parametrize("out", [5, WIDTH])
def test_llminit_starts_from_the_principal_components(out: int, spectrum: str) -> None:
    states = text_vectors()
    found = embedded(build("llminit", states, out, spectrum=spectrum, std=0.3), states, ALL)
    wanted, variances = components(states)
    if spectrum == "equal":
        wanted = wanted / np.sqrt(variances + 1e-5 * variances[0])
    wanted = wanted[:, :out] * 0.3 / wanted[:, :out].std()
    np.testing.assert_allclose(found, match_signs(found, wanted), atol=1e-5)
    assert found.std() == pytest.approx(0.3, rel=1e-4)


def test_llminit_fills_a_wider_recommender_at_random() -> None:
    states = text_vectors(400)
    found = embedded(build("llminit", states, WIDTH + 30, std=0.1), states, torch.arange(400))
    wanted = components(states)[0]
    wanted *= 0.1 / wanted.std()
    np.testing.assert_allclose(found[:, :WIDTH], match_signs(found[:, :WIDTH], wanted), atol=1e-5)
    rest = found[:, WIDTH:]
    assert rest.std() == pytest.approx(0.1, rel=0.05) and abs(np.corrcoef(rest.T) - np.eye(30)).max() < 0.25


def test_principal_components_of_a_covariance() -> None:
    covariance = np.cov(text_vectors()[:, 0].T.numpy(), bias=True)
    variances, directions = (part.numpy() for part in principal_components(torch.from_numpy(covariance)))
    np.testing.assert_allclose(directions * variances @ directions.T, covariance, atol=1e-12)
    np.testing.assert_allclose(directions.T @ directions, np.eye(WIDTH), atol=1e-12)
    assert (np.diff(variances) < 0).all()
    assert (np.take_along_axis(directions, abs(directions).argmax(0)[None], 0) > 0).all()


@pytest.mark.parametrize("name", ["llminit", "alphafuse"])
def test_equal_text_vectors_have_no_components(name: str) -> None:
    with pytest.raises(UserError, match="the text vectors of all items are equal"):
        build(name, text_vectors()[:1].expand(ITEMS, 1, WIDTH), 4)


# --- alphafuse ----------------------------------------------------------------------------------------------


def standardised(states: Tensor) -> np.ndarray:
    """Components with variance 1, `[I, D]`; 1e-5 of the largest variance is added to each."""
    rows, variances = components(states)
    return rows / np.sqrt(variances + 1e-5 * variances[0])


@pytest.mark.parametrize(
    ("out", "given", "null"),
    [(6, 0, 3), (6, 2, 2), (6, 5, 5), (WIDTH, 0, 6), (WIDTH + 4, 0, 8), (WIDTH + 4, 4, 4), (30, 0, 18)],
)
@pytest.mark.parametrize("fuse", ["add", "replace"])
def test_alphafuse_learns_in_the_null_space(out: int, given: int, null: int, fuse: str) -> None:
    states, known = text_vectors(), min(out, WIDTH)
    method = build("alphafuse", states, out, null_dims=given, fuse=fuse, start="normal")
    learned, frozen = np.zeros((ITEMS, out)), np.zeros((ITEMS, out))
    learned[:, out - null :] = method.own.weight.detach().numpy()
    frozen[:, :known] = standardised(states)[:, :known]
    if fuse == "replace":
        frozen[:, out - null :] = 0
    found = embedded(method, states, ALL)
    np.testing.assert_allclose(found, match_signs(found - learned, frozen) + learned, atol=1e-4)
    rows = torch.tensor([3, 59, 0])
    np.testing.assert_allclose(embedded(method, states, rows), found[rows.numpy()], atol=1e-6)
    assert method.extra_record() == {"semantic_dims": out - null, "null_dims": null}


def test_alphafuse_ranks_by_texts_before_it_trains() -> None:
    states = text_vectors()
    found, wanted = embedded(build("alphafuse", states, 8), states, ALL), standardised(states)[:, :8]
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-3)


def test_alphafuse_divides_by_a_threshold() -> None:
    states = text_vectors()
    variances = components(states)[1]
    between = float((variances[4] + variances[5]) / 2 / variances.mean())
    assert build("alphafuse", states, 8, threshold=between).extra_record() == {
        "semantic_dims": 5,
        "null_dims": 3,
    }
    wide = build("alphafuse", states, WIDTH + 2, threshold=between, null_dims=9)  # which no longer counts
    assert wide.extra_record() == {"semantic_dims": 5, "null_dims": WIDTH - 5 + 2}
    scaled = build("alphafuse", 40 * states, 8, threshold=between)
    assert scaled.extra_record()["null_dims"] == 3


def test_alphafuse_stays_finite_with_fewer_items_than_dimensions() -> None:
    states = text_vectors(5)
    found = embedded(build("alphafuse", states, WIDTH), states, torch.arange(5))
    assert np.isfinite(found).all() and abs(found[:, 4:]).max() < 0.01


@pytest.mark.parametrize(
    ("out", "values", "message"),
    [
        (8, {"null_dims": 8}, "null_dims=8 does not fit a recommender of width 8 .*: take 1 to 7"),
        (16, {"null_dims": 3}, "null_dims=3 does not fit .* language model of width 12: take 4 to 15"),
        (8, {"threshold": 1e-4}, "threshold=0.0001 leaves 0 of 8 dimensions to learn"),
        (8, {"threshold": 900.0}, "threshold=900 leaves 8 of 8 dimensions to learn"),
    ],
)
def test_alphafuse_names_what_does_not_fit(out: int, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("alphafuse", text_vectors(), out, **values)


# --- The contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("llminit", {"spectrum": "equal", "std": 0.5}),
        ("alphafuse", {"fuse": "replace", "start": "normal"}),
        ("alphafuse", {"threshold": 0.7}),
    ],
)
def test_other_values_keep_the_contract(name: str, values: dict[str, Any]) -> None:
    cls = registry.get(name)
    check_method(cls, cls.Config(**values))
