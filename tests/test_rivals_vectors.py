"""Item vectors made of text vectors, against the papers' equations written out in NumPy.

`llminit` starts from principal components, `alphafuse` keeps them, `vqrec` quantises the vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.cluster.vq
import scipy.linalg
import torch
from torch import Tensor

from methods import registry
from methods.base import Context, Items, Method, state_covariance, state_statistics
from methods.checks import check_method
from methods.errors import UserError
from methods.principal import principal_components
from methods.quantisation import best_rotation, lloyd_step
from methods.vqrec import VQRecConfig, sizes

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


# --- vqrec --------------------------------------------------------------------------------------------------


def plain_codes(method: Method, states: Tensor) -> np.ndarray:
    """`[I, M]`: for each item and group the nearest centroid, with loops."""
    rotation, centroids = (
        method.quantiser.rotation.double().numpy(),
        method.quantiser.centroids.double().numpy(),
    )
    groups, _, length = centroids.shape
    centred = states[:, 0].double().numpy()
    centred = centred - centred.mean(0)
    codes = np.zeros((len(states), groups), dtype=int)
    for item, row in enumerate(centred):
        rotated = rotation @ row
        for group in range(groups):
            piece = rotated[group * length : (group + 1) * length]
            codes[item, group] = ((centroids[group] - piece) ** 2).sum(1).argmin()
    return codes


@pytest.mark.parametrize("rotate", [True, False])
def test_vqrec_averages_the_vectors_of_the_nearest_centroids(rotate: bool) -> None:
    states, out = text_vectors(), 5
    method = build("vqrec", states, out, groups=3, codes=4, rotate=rotate, rounds=5)
    codes, table = plain_codes(method, states), method.table.detach().double().numpy().reshape(3, 4, out)
    wanted = np.array([np.mean([table[k, item[k]] for k in range(3)], axis=0) for item in codes])
    np.testing.assert_allclose(embedded(method, states, ALL), wanted, atol=1e-6)
    assert (np.diff(np.sort(codes, axis=0), axis=0) > 0).sum(
        0
    ).min() == 3  # all four codes of each group occur


def test_vqrec_without_rotation_is_kmeans_in_each_group() -> None:
    """From the same centroids, SciPy takes the same steps."""
    states, values = text_vectors(), {"groups": 4, "codes": 5, "rotate": False, "rounds": 7}
    method = build("vqrec", states, 3, **values)
    cls = registry.get("vqrec")
    torch.manual_seed(1)  # as `build`: the order of the items is drawn after the method is built
    cls(cls.Config(**values), Context(3, ITEMS, 10, 12, WIDTH, *state_statistics(states)))
    first = torch.randperm(ITEMS)[:5].numpy()
    centred = states[:, 0].double().numpy()
    centred = centred - centred.mean(0)
    for group in range(4):
        rows = centred[:, 3 * group : 3 * group + 3]
        wanted, _ = scipy.cluster.vq.kmeans2(rows, rows[first], iter=7, minit="matrix")
        np.testing.assert_allclose(method.quantiser.centroids[group].numpy(), wanted, atol=1e-5)
    assert torch.equal(method.quantiser.rotation, torch.eye(WIDTH))


def test_an_empty_code_keeps_its_centroid() -> None:
    centroids = torch.tensor([[[0.0], [10.0], [99.0]]])
    lloyd_step(centroids, torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([[0, 0, 1]]))
    assert centroids.flatten().tolist() == [2.0, 8.0, 99.0]


def lost(method: Method, states: Tensor) -> float:
    """Squared error of the centroids in place of the text vectors, as a share of the variance."""
    centred = states[:, 0].double().numpy()
    centred = centred - centred.mean(0)
    codes, centroids = plain_codes(method, states), method.quantiser.centroids.double().numpy()
    restored = np.concatenate([centroids[k][codes[:, k]] for k in range(len(centroids))], axis=1)
    rotated = centred @ method.quantiser.rotation.double().numpy().T
    return float(((restored - rotated) ** 2).sum() / (rotated**2).sum())


def test_the_rotation_is_orthogonal_and_loses_less() -> None:
    states = text_vectors(200)
    plain, rotated = (
        build("vqrec", states, 3, groups=4, codes=8, rotate=rotate, rounds=30) for rotate in (False, True)
    )
    found = rotated.quantiser.rotation
    torch.testing.assert_close(found @ found.T, torch.eye(WIDTH), atol=1e-5, rtol=0)
    assert lost(rotated, states) < 0.9 * lost(plain, states)


def test_the_rotation_is_that_of_procrustes() -> None:
    torch.manual_seed(0)
    rows, restored = torch.randn(20, 6).double(), torch.randn(20, 6).double()
    wanted, _ = scipy.linalg.orthogonal_procrustes(rows.numpy(), restored.numpy())  # rows @ wanted
    np.testing.assert_allclose(best_rotation(rows, restored).T.numpy(), wanted, atol=1e-10)


@pytest.mark.parametrize(
    ("items", "width", "groups", "codes"),
    [(60, 12, 12, 7), (5000, 64, 32, 256), (5000, 48, 24, 256), (7, 37, 1, 1)],
)
def test_the_published_codebook_as_far_as_it_fits(items: int, width: int, groups: int, codes: int) -> None:
    assert sizes(VQRecConfig(), width, items) == (groups, codes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"groups": 5},
            "groups=5 does not divide the width 12 of the language model: take one of 1, 2, 3, 4, 6",
        ),
        ({"codes": 61}, "codes=61 is more than the catalogue has items: 1 to 60"),
    ],
)
def test_vqrec_names_what_does_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("vqrec", text_vectors(), 4, **values)


# --- The contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("llminit", {"spectrum": "equal", "std": 0.5}),
        ("alphafuse", {"fuse": "replace", "start": "normal"}),
        ("alphafuse", {"threshold": 0.7}),
        ("vqrec", {"groups": 6, "codes": 10, "rotate": False, "rounds": 3}),
    ],
)
def test_other_values_keep_the_contract(name: str, values: dict[str, Any]) -> None:
    cls = registry.get(name)
    check_method(cls, cls.Config(**values))
